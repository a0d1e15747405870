"""The fleet: more than one worker exists."""
