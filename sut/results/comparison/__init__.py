"""Comparison of runs: differences of configuration, ratios of figures and their confidence intervals."""
