"""Requests of a round in bench.peers, all issued at once, and the check of their answers."""

import argparse
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.command import flag
from bench.flag_help import add_fields
from bench.workload import compose_user_conf, counting_answer, draw_prompts, read_answers, write_prompts
from common.flags import FlagError
from sut.settings import Scenario


@dataclass(frozen=True, slots=True, kw_only=True)
class BurstLoad:
    """Requests that are all issued at once, for engines whose steps take no time."""

    in_flight: int = 2048
    """Requests that all engines together run at once, 1..--requests."""
    answer_tokens: int = 1024
    """Mean length of an answer in tokens, 4 or more; lengths are uniform within a quarter of it."""
    prompt_tokens: int = 256
    """Length of each prompt in tokens, 2 or more."""
    workers: int = 2
    """Number of engines, one process each, 1 or more."""
    requests: int = 2048
    """Number of requests in a round."""

    def __post_init__(self) -> None:
        """Check the bounds; FlagError names flag, value and bound."""
        # LoadGen counts an answer of fewer than two tokens as an error; a prompt needs a length and a token.
        lowest = {"answer_tokens": 4, "prompt_tokens": 2, "in_flight": 1, "workers": 1}
        for name, bound in lowest.items():
            if getattr(self, name) < bound:
                raise FlagError(flag(name), f"{getattr(self, name)} is below {bound}")
        if self.in_flight > self.requests:
            raise FlagError("--in-flight", f"{self.in_flight} is above --requests {self.requests}")

    @property
    def timeout_s(self) -> float:
        """Return the time limit of a round: ten times the duration of the slowest known side."""
        return 60.0 + 1e-3 * self.requests * self.answer_tokens

    @property
    def longest_answer(self) -> int:
        """Tokens."""
        return self.answer_tokens * 5 // 4


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the fields of BurstLoad as flags with their default values."""
    add_fields(parser, BurstLoad)


class Answers(NamedTuple):
    """Answers in LoadGen's log of a round, after every answer has been compared."""

    requests: int
    tokens: int
    sha256: str
    """Digest of all tokens in the order of the samples."""


class Workload:
    """Input files of a load, and its expected answers."""

    def __init__(self, load: BurstLoad, directory: Path) -> None:
        """Write data set and user.conf into an existing directory."""
        self.load = load
        self.user_conf = directory / "user.conf"
        shortest = 2 * load.answer_tokens - load.longest_answer
        self.prompts = draw_prompts(load.requests, load.prompt_tokens, shortest, load.longest_answer)
        """(requests, prompt_tokens) token ids."""
        self.input_file = write_prompts(directory / "data.parquet", self.prompts)
        self._answers = [counting_answer(prompt) for prompt in self.prompts]
        self.user_conf.write_text(_user_conf(load), encoding="utf-8")

    @property
    def num_tokens(self) -> int:
        """Return the number of tokens of all answers."""
        return sum(map(len, self._answers))

    def check(self, accuracy_log: Path) -> Answers:
        """Compare every answer in LoadGen's log with the one expected for its prompt.

        Raises:
            RuntimeError: A sample is missing or logged twice, or an answer differs.
        """
        logged: dict[int, NDArray[np.int32]] = {}
        for sample, answer in read_answers(accuracy_log):
            if sample in logged:
                raise RuntimeError(f"{accuracy_log}: sample {sample} is logged twice")
            logged[sample] = answer
        for sample, expected in enumerate(self._answers):
            if sample not in logged or not np.array_equal(logged[sample], expected):
                raise RuntimeError(f"{accuracy_log}: sample {sample} does not have the expected answer")
        joined = np.concatenate([logged[sample] for sample in range(len(self._answers))])
        return Answers(len(logged), len(joined), hashlib.sha256(joined.tobytes()).hexdigest())


def _user_conf(load: BurstLoad) -> str:
    """Return a user.conf with which LoadGen issues each sample once and logs all answers."""
    values = {
        # In Offline LoadGen issues min_query_count samples if that exceeds target_qps times min_duration.
        "target_qps": float(load.requests),
        "min_duration": 1,
        "min_query_count": load.requests,
        "accuracy_log_sampling_target": 1_000_000_000,
        # Without this LoadGen would draw from the model's official number of samples, some of them twice.
        "performance_sample_count_override": load.requests,
    }
    return compose_user_conf([Scenario.OFFLINE], values)
