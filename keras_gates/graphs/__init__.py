"""A Keras model in, a Keras model out: read, copied, and rebuilt."""
