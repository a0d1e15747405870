"""Code that every program uses: flags, TLS and token files, host facts, timers, signals, text."""
