"""Access to the worker's machine: GPUs, NVML, cores, host information, sd_notify."""
