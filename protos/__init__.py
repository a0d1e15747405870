"""The wire: what two processes must agree on."""
