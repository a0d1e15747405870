"""Time to SERVING and memory of a worker, compared with `vllm serve`."""
