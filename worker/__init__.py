"""The worker: serves replicas of the model on a node."""

import os

import protos  # noqa: F401 - before gRPC, whose environment it sets

# gRPC's core reads this at import; its own log lines would stand beside the one line of a refusal or probe.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
