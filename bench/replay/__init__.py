"""Replay of recorded frames of tokens through a coordinator's scheduler, without sockets and LoadGen."""
