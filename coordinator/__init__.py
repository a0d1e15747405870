"""The fleet: more than one worker exists."""

import os

# gRPC's core reads this at import; its own lines would stand beside the one that says what is wrong.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
# gRPC's older poller hands a message on through one thread less. At 1,400 frames and 890 prompts a second it
# took 13 % off the whole process (bench.fleet held, grpcio 1.85.3).
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client")
