"""The MLPerf side: LoadGen, benchmark constants, settings, data sets and results."""
