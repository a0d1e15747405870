"""Imported last by the process from which tests fork: what has been imported leaves the garbage collection.

Each forked process would otherwise traverse and copy it, 70 ms of CPU.
"""

import gc

gc.collect()
gc.freeze()
