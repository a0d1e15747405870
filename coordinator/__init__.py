"""The fleet: more than one worker exists."""

import os

import protos  # noqa: F401 - before gRPC, whose environment it sets

# gRPC's core reads this at import; its own lines would stand beside the one that says what is wrong.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
