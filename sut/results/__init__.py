"""Logs and verdict, after LoadGen has returned; nothing here runs during a run."""
