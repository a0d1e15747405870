"""The product and the bare engine compared on GPUs."""
