"""Loaders of weights."""
