"""What engines that load a model share: the checkpoint's files, its hash, memory checks and presets."""
