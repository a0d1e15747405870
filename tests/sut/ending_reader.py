"""Stands for the process that reads a data set, and ends or stays as its argument says."""

import os
import signal
import sys
import time

how = sys.argv[1]
if how == "speaks":
    sys.stderr.write("a library speaks\n" * 10_000 + "\x1b[2J" + "x" * 1_000)
    sys.exit(2)
if how == "stays":
    sys.stderr.close()
    os.close(2)
    time.sleep(600)
if how == "hangs":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)
if how.startswith("SIG"):
    os.kill(os.getpid(), signal.Signals[how])
sys.exit(how)
