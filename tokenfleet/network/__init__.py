"""The SUT's side of the Network division: a fleet of workers behind one address."""
