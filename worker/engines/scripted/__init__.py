"""Engines that compute answers from the prompt by arithmetic: counting and simulated."""
