"""Benchmarks; each measures all its sides in one run."""
