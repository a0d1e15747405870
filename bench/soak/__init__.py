"""One coordinator while workers are killed and started again."""
