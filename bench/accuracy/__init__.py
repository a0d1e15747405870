"""Time and memory of scoring an accuracy log of official size."""
