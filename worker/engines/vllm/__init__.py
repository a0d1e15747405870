"""The vLLM engine: the only package that imports vllm and torch, and only inside functions."""
