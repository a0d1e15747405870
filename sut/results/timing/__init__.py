"""Times of single requests: clocks brought together, times taken apart, files of requests."""
