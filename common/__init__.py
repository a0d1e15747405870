"""What both ends need and is not the wire: flags, TLS and token files, facts of a host, signals, text."""
