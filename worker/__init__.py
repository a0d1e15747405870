"""The worker: serves replicas of the model on a node."""

import protos  # noqa: F401 - before gRPC, whose environment it sets
