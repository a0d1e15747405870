"""What live view, request records and metrics cost a run."""
