"""The engine: everything about serving replicas on a node."""
