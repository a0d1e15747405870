"""gRPC client for workers: channels, streams, readiness, loss and readmission of workers."""
