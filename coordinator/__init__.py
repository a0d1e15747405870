"""The coordinator: runs LoadGen and distributes its queries over many workers."""

import os

import protos  # noqa: F401 - before gRPC, whose environment it sets

# gRPC's core reads this at import; its own log lines would repeat the error that the coordinator reports.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
