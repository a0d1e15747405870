"""The search for the highest valid rate, in virtual time and in real time."""
