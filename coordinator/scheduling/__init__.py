"""Requests between LoadGen and the workers: tables, routing, failover, reports."""
