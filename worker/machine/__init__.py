"""The machine of a worker: GPUs, NVML, cores, host information, the service manager's socket."""
