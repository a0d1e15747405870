"""A node of several replicas: processes, ports, and which GPUs and cores each gets."""
