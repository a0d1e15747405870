"""Step time of the simulated engine: a line fitted to measured decode rates, and a prefill rate.

Source: vLLM 0.25.1 on one H200, gpt-oss-120b with random weights, Triton kernels: 3,872 tokens/s at 128
sequences, 8,946 at 512, 13,427 at 1,024; prefill of 128 prompts of 1,024 tokens at 58,600 tokens/s.

The defaults are the least-squares line through the three step times, sequences over tokens/s:

    sequences x        128       512       1,024      mean 1664 / 3 = 554.667
    step time y, ms    33.058    57.232    76.264     mean 55.518
    x - mean          -426.667   -42.667   469.333
    y - mean           -22.460     1.714    20.746
    slope = (426.667 * 22.460 - 42.667 * 1.714 + 469.333 * 20.746)
            / (426.667^2 + 42.667^2 + 469.333^2)
          = 19,247 / 404,139 = 0.0476 ms = 47.6 us a sequence
    base  = 55.518 - 0.047624 * 554.667 = 29.1 ms

The line gives 35.2, 53.5 and 77.8 ms: 6 % above, 7 % below and 2 % above the measured times.
"""

from dataclasses import dataclass
from typing import Annotated

from common.flags import Flag, FlagError, Flags, declared


@dataclass(frozen=True, slots=True, kw_only=True)
class CostModel(Flags):
    """Parameters of the step time on one machine."""

    prefill_tokens_per_s: Annotated[
        float, Flag("prompt tokens that a step prefills per second", gt=0, metavar="TOKENS/S")
    ] = 58_600.0
    step_base_ms: Annotated[float, Flag("time of a step without requests, in ms", ge=0, metavar="MS")] = 29.1
    step_per_seq_us: Annotated[
        float, Flag("time that each request past its prefill adds to a step, in us", ge=0, metavar="US")
    ] = 47.6

    @classmethod
    def of(cls, given: dict[str, float | None]) -> "CostModel":
        """Create a cost model from values by field name; if none is given, from the defaults.

        Raises:
            FlagError: A value is out of bounds, or only some are given, which would mix two machines.
        """
        values = {name: value for name, value in given.items() if value is not None}
        missing = [flag.option for flag in declared(cls) if flag.field not in values]
        if values and missing:
            raise FlagError(missing[0], "missing; give either all costs of a step or none")
        return cls(**values)

    def step_s(self, num_decoding: int, prefill_tokens: int) -> float:
        """Return the duration of a step in seconds.

        Args:
            num_decoding: Requests past their prefill.
            prefill_tokens: Prompt tokens that the step prefills.
        """
        decode_s = self.step_base_ms / 1e3 + self.step_per_seq_us / 1e6 * num_decoding
        return decode_s + prefill_tokens / self.prefill_tokens_per_s
