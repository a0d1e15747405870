"""The other ways to bring tokens home, as the transport benchmark's opponents; no part of the product."""
