"""MLPerf: LoadGen, the table of benchmark constants, settings and data sets."""
