"""Measurements, each with all its sides in one run."""
