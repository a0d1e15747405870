"""MLPerf: LoadGen, QSL, settings and data sets."""
