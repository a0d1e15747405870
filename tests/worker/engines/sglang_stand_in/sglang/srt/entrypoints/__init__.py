"""See sglang."""
