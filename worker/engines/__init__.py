"""Implementations of worker.engine_protocol.Engine."""
