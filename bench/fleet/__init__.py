"""One coordinator over simulated workers, at the size of the largest published fleet."""
