"""`tokenfleet spans`: requests of a finished run as OpenTelemetry spans."""
