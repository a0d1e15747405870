"""The command, and what drives several runs; may import any room, nothing imports it."""
