"""Engines whose answers are computed by hand from the prompt: counting and simulated."""
