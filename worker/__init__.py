"""The engine: everything about serving replicas on a node."""

import protos  # noqa: F401 - before gRPC, whose environment it sets
