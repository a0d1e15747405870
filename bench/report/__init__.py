"""The report of a run of official size: time, memory and size of the page."""
