"""Noise of a simulated run, from repeated rounds under bench/results."""

from typing import NamedTuple

import numpy as np

from bench.tail.virtual_replicas import Floats

WINDOW_S = 40.0
"""Duration of one round of the files below: the speed of a window is drawn as a round's was measured."""
RUN_DEVIATION = 0.005
"""Standard deviation of what all windows of a run have in common.

The pairs of rounds with the least noise differ by 0.01 to 0.1 %; a run that is started again also varies in
the order of its prompts and in the answers. 0.5 % is assumed.
"""
MAX_DRIFT = 0.02
"""Largest change of the speed over the runs of one comparison, in either direction."""
CPU_DEVIATION = 0.017
"""Of the coordinator's CPU time: three rounds of 2026-11-29-fleet-pair/server-500, new: 998, 986, 965 us."""
# Tokens/s of successive rounds of one engine load with equal flags, after the warm-up.
ROUNDS = (
    ("2026-11-25-h100/even.json, bare", (5873, 6009, 5915)),
    ("2026-11-25-h100/even.json, ours", (5371, 5417, 5165)),
    ("2026-11-25-h100/offline.json, bare", (5343, 5316, 5282)),
    ("2026-11-25-h100/offline.json, ours", (5073, 5071, 5054)),
    ("2026-11-26-h100/order.json, bare", (5444, 5454, 5581, 5500)),
    ("2026-11-26-h100/order.json, ours", (5515, 5615, 5402, 5578)),
    ("2026-11-26-h200-graphs/mixed.json", (5886, 5881)),
    ("2026-11-26-h200-graphs/offline512.json", (7166, 7174)),
    ("2026-11-26-h200-server/server.json, async", (6732, 6726)),
    ("2026-11-26-h200-server/server.json, ours", (6730, 6731)),
    ("2026-11-26-h200/whole.json, bare", (7313, 7310, 7313, 7307)),
    ("2026-11-26-h200/whole.json, ours", (7358, 7348, 7048, 7348)),
    ("2026-11-29-h200-official/marlin.json", (6394, 6400)),
    ("2026-11-29-h200-pair/new-1.json", (6549, 6481)),
    ("2026-11-29-h200-pair/new-3.json", (7031, 6862, 7019)),
    ("2026-11-29-h200-pair/old-1.json", (6522, 6640)),
    ("2026-11-29-h200-pair/old-2.json", (6649, 6614, 6895)),
)


def residuals() -> Floats:
    """Return the deviations of the logarithms of all rounds from the means of their loads, unbiased."""
    logs = [np.log(np.array(rounds, np.float64)) for _, rounds in ROUNDS]
    return np.concatenate([(x - x.mean()) * np.sqrt(len(x) / (len(x) - 1)) for x in logs])


class RunNoise(NamedTuple):
    """Speed of the engine during one run, as factors of its speed."""

    run: float
    windows: Floats
    """Factor of each window; used again from the start in longer runs."""

    def speed(self, window: int) -> float:
        """Return the factor of a window."""
        return self.run * float(self.windows[window % len(self.windows)])


def draw_noise(generator: np.random.Generator, drift: float, place: float) -> RunNoise:
    """Draw the noise of one run.

    Args:
        generator: Of the comparison.
        drift: Change of the speed over the comparison.
        place: Position of the run in the comparison, from -0.5 to 0.5.
    """
    run = float(np.exp(generator.normal(0.0, RUN_DEVIATION) + drift * place))
    return RunNoise(run, np.exp(generator.choice(residuals(), 64)))
