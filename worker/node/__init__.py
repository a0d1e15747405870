"""A node with several replicas: their processes, ports, GPUs and cores."""
