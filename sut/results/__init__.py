"""Read LoadGen's logs and compute the verdict, after the run has ended."""
