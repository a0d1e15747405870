"""Engines whose answers follow from the prompt by arithmetic: counting and simulated."""
