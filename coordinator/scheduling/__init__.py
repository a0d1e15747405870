"""Scheduling of requests: request table, routing to workers, failover, reports to LoadGen."""
