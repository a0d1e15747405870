"""The SGLang engine: the only package that imports sglang and zmq, and only inside functions."""
