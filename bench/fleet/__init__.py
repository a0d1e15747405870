"""One coordinator for the largest fleet published, over simulated workers."""
