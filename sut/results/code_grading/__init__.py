"""Grade the programs of LiveCodeBench answers in sandboxes."""
