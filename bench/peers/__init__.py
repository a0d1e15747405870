"""Other transports for tokens, compared with the product's; not part of the product."""
