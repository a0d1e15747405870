"""One coordinator while workers are killed and restarted."""
