"""After LoadGen has returned, never during a run: logs and the verdict."""
