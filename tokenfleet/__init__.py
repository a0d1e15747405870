"""The `tokenfleet` command and local runs; may import every package, no package imports it."""
