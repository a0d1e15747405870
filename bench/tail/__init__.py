"""The end of an Offline run under several dispatch policies, in virtual time."""
