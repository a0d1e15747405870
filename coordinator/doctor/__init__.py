"""Checks of workers, machines and files before a run, for `tokenfleet doctor`; no run is started."""
