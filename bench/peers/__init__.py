"""Token transports to compare with the product's; not part of the product."""
