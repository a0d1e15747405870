"""First contact with a system: checks of weights, data files, tokens and accuracy in about twenty minutes."""
