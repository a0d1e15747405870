"""What can be checked before a run, for `python -m coordinator doctor`; nothing of it begins one."""
