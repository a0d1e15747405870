"""Time to SERVING and memory of a worker, beside `vllm serve`."""
