"""Settings of the Python interpreter during a test."""

import gc
import sys

# How long one thread may keep the interpreter from another; Python's default is 5 ms. LoadGen's issue thread
# and the event loop wait for each other, and for the live view and the metrics, which take a few milliseconds
# of each second. These waits count in TTFT.
SWITCH_INTERVAL_S = 0.0005
# Containers allocated and not freed before the next collection: about ten megabytes. Frames and requests
# leave none; with Python's default of 700 the pings of 64 workers alone start a collection each second.
GC_THRESHOLD = 50_000


def quiet_interpreter() -> None:
    """Keep pauses out of the test: objects that exist now are never scanned by the collector again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
