"""How the user's own model is run with what is closed at zero."""
