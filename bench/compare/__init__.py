"""False alarms and power of `tokenfleet report compare`, in virtual time."""
