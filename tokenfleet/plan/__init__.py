"""`tokenfleet plan`: what this host's coordinator can carry, from a short benchmark without GPUs."""
