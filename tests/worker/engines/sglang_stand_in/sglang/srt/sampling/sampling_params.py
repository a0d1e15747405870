"""Sampling parameters; the model that counts down uses none but the budget and the stop ids."""

from dataclasses import dataclass


@dataclass(kw_only=True)
class SamplingParams:
    """Those that the worker sets."""

    max_new_tokens: int | None = 128
    stop_token_ids: set[int] | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 1 << 30
    ignore_eos: bool = False
    sampling_seed: int | None = None
    is_normalized: bool = False

    def normalize(self, tokenizer: object) -> None:
        """Accept no tokenizer."""
        assert tokenizer is None
        self.is_normalized = True

    def verify(self, vocab_size: int) -> None:
        """Refuse a temperature below 0."""
        if self.temperature < 0.0:
            raise ValueError(f"temperature must be a non-negative finite number, got {self.temperature}.")
