"""The product beside the bare engine, on GPUs."""
