"""A campaign: all runs of a submission, scored, verified and laid out."""
