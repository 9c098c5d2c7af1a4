"""`StripConv` and its parts."""
