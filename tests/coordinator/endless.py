"""A process that takes any flags and does not end by itself within a test."""

import time

time.sleep(600)
