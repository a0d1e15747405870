"""bench.gpu race: compare engine configurations in the steady state of a full batch."""
