"""gRPC to the workers: channels, streams, readiness, loss and return."""
