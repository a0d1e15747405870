"""Records of a run: run directory, run.json, received outputs, progress lines, jitter."""
