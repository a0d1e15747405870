"""Decide compliance tests and write the files that the submission checker reads."""
