"""The demonstration behind ``tapegrad demo``: a classifier of handwritten digits, trained while you watch."""
