"""Report of one run: a page that opens without a network, and its plots as files."""
