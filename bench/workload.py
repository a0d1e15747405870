"""What every side of a benchmark does alike: data set, arrivals, and answers known beforehand."""

import argparse
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.bounds import flag
from sut.settings import Scenario
from worker.engines.scripted.answers import COUNT_MODULUS, STOP_TOKEN_ID

SEED = 20_002
_Work = TypeVar("_Work", bound="Work")


@dataclass(frozen=True, slots=True, kw_only=True)
class Work(ABC):
    """What a round's work is, however its requests come."""

    in_flight: int = 64
    """Requests in flight once the run has got going, on average."""
    answer_tokens: int = 256
    """Mean length of an answer; lengths are uniform within a quarter of it."""
    prompt_tokens: int = 256
    """Length of each prompt."""
    workers: int = 2
    """Engines, one process each."""

    def __post_init__(self) -> None:
        """Check the bounds.

        Raises:
            ValueError: Names flag, value and bound.
        """
        # LoadGen counts an answer of fewer than two tokens as an error; a prompt is a length and a token.
        lowest = {"answer_tokens": 4, "prompt_tokens": 2, "in_flight": 1, "workers": 1}
        for name, bound in lowest.items():
            if getattr(self, name) < bound:
                raise ValueError(f"{flag(name)}: {getattr(self, name)} is below {bound}")

    @property
    @abstractmethod
    def num_requests(self) -> int:
        """Requests of a round."""

    @property
    @abstractmethod
    def step_ms(self) -> float:
        """Time of an engine step; it gives each running request one token."""

    @property
    @abstractmethod
    def target_qps(self) -> float:
        """What LoadGen is told."""

    @property
    @abstractmethod
    def timeout_s(self) -> float:
        """Bound of a round."""

    @property
    def longest_answer(self) -> int:
        """Tokens."""
        return self.answer_tokens * 5 // 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Load(Work):
    """Requests that arrive for some time, for engines with a pace."""

    step_ms: float = 10.0
    """Time of an engine step; it gives each running request one token."""
    seconds: float = 5.0
    """How long requests arrive; the last answers come after that."""

    def __post_init__(self) -> None:
        """Check the bounds.

        Raises:
            ValueError: Names flag, value and bound.
        """
        Work.__post_init__(self)
        for name in ("step_ms", "seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{flag(name)}: {getattr(self, name)} is not above 0")

    @property
    def target_qps(self) -> float:
        """Arrivals per second that keep `in_flight` requests busy, by Little's law."""
        return self.in_flight / (self.answer_tokens * self.step_ms / 1e3)

    @property
    def num_requests(self) -> int:
        """Requests of a round."""
        return max(round(self.target_qps * self.seconds), 1)

    @property
    def timeout_s(self) -> float:
        """Bound of a round: a side at a tenth of the rate still ends in time."""
        return 30.0 + 10.0 * (self.seconds + self.longest_answer * self.step_ms / 1e3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst(Work):
    """Requests that come all at once, for engines whose steps take no time."""

    in_flight: int = 2048
    """Requests that the engines run at once, all together."""
    answer_tokens: int = 1024
    """Mean length of an answer; lengths are uniform within a quarter of it."""
    requests: int = 2048
    """Requests of a round."""

    def __post_init__(self) -> None:
        """Check the bounds.

        Raises:
            ValueError: Names flag, value and bound.
        """
        Work.__post_init__(self)
        if self.in_flight > self.requests:
            raise ValueError(f"--in-flight: {self.in_flight} is above --requests {self.requests}")

    @property
    def num_requests(self) -> int:
        """Requests of a round."""
        return self.requests

    @property
    def step_ms(self) -> float:
        """None: the engine waits for the transport alone."""
        return 0.0

    @property
    def target_qps(self) -> float:
        """Any rate: Offline asks for `min_query_count` samples as soon as that is more than it times 1 ms."""
        return float(self.requests)

    @property
    def timeout_s(self) -> float:
        """Bound of a round: a side that takes ten times as long as the slowest known still ends in time."""
        return 60.0 + 1e-3 * self.requests * self.answer_tokens


def add_flags(parser: argparse.ArgumentParser, load: Work | None) -> None:
    """Add the fields of `load` as flags with its values as defaults; None: a Load's, not given."""
    for field in fields(Load if load is None else load):
        default = None if load is None else getattr(load, field.name)
        parser.add_argument(flag(field.name), type=type(field.default), default=default)


def load_of(args: argparse.Namespace, load: _Work) -> _Work:
    """Take a load with the flags that were given.

    Raises:
        ValueError: Names flag, value and bound.
    """
    given = {field.name: getattr(args, field.name) for field in fields(load)}
    return replace(load, **{name: value for name, value in given.items() if value is not None})


class Answers(NamedTuple):
    """What LoadGen logged of a round, after every answer has been compared."""

    requests: int
    tokens: int
    sha256: str
    """Of all tokens in the order of the samples."""


class Workload:
    """The files of a load, and its answers."""

    def __init__(self, load: Work, directory: Path) -> None:
        """Write data set and user.conf into an existing directory."""
        self.load = load
        self.user_conf = directory / "user.conf"
        shortest = 2 * load.answer_tokens - load.longest_answer
        self.prompts = prompts = draw_prompts(
            load.num_requests, load.prompt_tokens, shortest, load.longest_answer
        )
        """(num_requests, prompt_tokens) token ids."""
        self.input_file = write_prompts(directory / "data.parquet", prompts)
        self._answers = [counting_answer(prompt) for prompt in prompts]
        self.user_conf.write_text(_user_conf(load), encoding="utf-8")

    @property
    def num_tokens(self) -> int:
        """Tokens of all answers."""
        return sum(map(len, self._answers))

    def check(self, accuracy_log: Path) -> Answers:
        """Compare every answer that LoadGen logged with the one that the prompt asks for.

        Raises:
            RuntimeError: A sample is missing or logged twice, or an answer differs.
        """
        logged: dict[int, NDArray[np.int32]] = {}
        for sample, answer in read_answers(accuracy_log):
            if sample in logged:
                raise RuntimeError(f"{accuracy_log}: sample {sample} comes twice")
            logged[sample] = answer
        for sample, expected in enumerate(self._answers):
            if sample not in logged or not np.array_equal(logged[sample], expected):
                raise RuntimeError(f"{accuracy_log}: sample {sample} has not the answer that was asked for")
        joined = np.concatenate([logged[sample] for sample in range(len(self._answers))])
        return Answers(len(logged), len(joined), hashlib.sha256(joined.tobytes()).hexdigest())


def read_answers(accuracy_log: Path) -> Iterator[tuple[int, NDArray[np.int32]]]:
    """Read LoadGen's accuracy log entry by entry: sample, and its tokens.

    Raises:
        RuntimeError: An entry has not as many tokens as it says.
    """
    with accuracy_log.open(encoding="utf-8") as file:
        for line in file:
            text = line.strip().rstrip(",")
            if not text.startswith("{"):
                continue
            entry = json.loads(text)
            answer = np.frombuffer(bytes.fromhex(entry["data"]), "<i4")
            if entry["token_count"] != len(answer):
                raise RuntimeError(f"{accuracy_log}: sample {entry['qsl_idx']} is not whole")
            yield entry["qsl_idx"], answer


def counting_answer(prompt: NDArray[np.int32]) -> NDArray[np.int32]:
    """Compute the counting engine's answer from its definition; the prompt's first token is at least 1."""
    answer = (int(prompt[-1]) + np.arange(1, int(prompt[0]) + 1)) % COUNT_MODULUS
    answer[-1] = STOP_TOKEN_ID
    return answer.astype(np.int32)


def draw_prompts(num: int, prompt_tokens: int, shortest: int, longest: int) -> NDArray[np.int32]:
    """Draw prompts, (num, prompt_tokens), that ask for answers of `shortest` to `longest` tokens.

    The first token of each is the length of its answer.
    """
    rng = np.random.default_rng(SEED)
    prompts = rng.integers(0, COUNT_MODULUS, (num, prompt_tokens), np.int32)
    prompts[:, 0] = rng.integers(shortest, longest, num, endpoint=True)
    return prompts


def write_prompts(path: Path, prompts: NDArray[np.int32]) -> Path:
    """Write a data set in the reference's schema."""
    pd.DataFrame({"tok_input": list(prompts)}).to_parquet(path)
    return path


def _user_conf(load: Work) -> str:
    """Ask LoadGen for each sample once, at the load's rate, and for all answers in its accuracy log."""
    values = {
        "target_qps": load.target_qps,
        "min_duration": 1,
        "min_query_count": load.num_requests,
        "accuracy_log_sampling_target": 1_000_000_000,
        # It would draw from the model's official number of samples, and take some of those twice.
        "performance_sample_count_override": load.num_requests,
    }
    return compose_user_conf(Scenario, values)


def compose_user_conf(scenarios: Iterable[Scenario], values: Mapping[str, float]) -> str:
    """Write lines for LoadGen's user.conf, the same for each scenario."""
    # LoadGen prefers a line of mlperf.conf with the model's name to one with a `*`.
    prefixes = [f"{scenario.model_name}.{scenario.loadgen_name}" for scenario in scenarios]
    return "".join(f"{prefix}.{key} = {value}\n" for prefix in prefixes for key, value in values.items())
