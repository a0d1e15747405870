"""The submission tree."""
