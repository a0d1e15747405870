"""Work of all sides of bench.gpu: a model that never stops early, prompts, budgets and arrivals."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.command import check_above, check_at_least, flag
from bench.fleet.schedule import scheduled_ns
from bench.gpu.unstopped_worker import MODEL_FILES
from common.flags import FlagError
from sut import dataset
from sut.dataset import Dataset
from sut.settings import Scenario
from sut.synthetic import DatasetSpec, write_dataset
from worker.engines.model.model_hash import DUMMY
from worker.engines.vllm import worker_extension

MAX_ROWS = 1 << 20
"""Rows of a data set of sut.synthetic."""
# Sizes of an engine on GPUs, equal for vLLM and SGLang.
NUM_SLOTS = 512
STEP_TOKENS = 8192
MEMORY_SHARE = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLengths:
    """Lengths of prompts and answers in tokens; the official ones divided by four, so that 4,096 suffice."""

    mean_prompt_len: float = 375.0
    """Mean length of a prompt in tokens, above 0."""
    max_prompt_len: int = 2048
    """Longest prompt in tokens, 2 or more."""
    mean_answer_len: float = 320.0
    """Mean length of an answer in tokens, above 0."""
    max_answer_len: int = 1024
    """Longest answer in tokens, 2 or more."""
    seed: int = 0
    """Seed, 0 or more; equal seeds produce equal requests in equal order."""

    def __post_init__(self) -> None:
        """Check the bounds; FlagError names flag, value and bound."""
        check_at_least(self, max_prompt_len=2, max_answer_len=2, seed=0)
        check_above(self, "mean_prompt_len", "mean_answer_len")
        for kind in ("prompt", "answer"):
            mean, longest = getattr(self, f"mean_{kind}_len"), getattr(self, f"max_{kind}_len")
            if mean > longest:
                raise FlagError(flag(f"mean_{kind}_len"), f"{mean:g} is above the longest, {longest}")

    @property
    def max_model_len(self) -> int:
        """Return the tokens of the longest prompt and answer, rounded up to a multiple of 16."""
        return -(-(self.max_prompt_len + self.max_answer_len) // 16) * 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths(TokenLengths):
    """Data set of a benchmark."""

    requests: int = 1024
    """Number of distinct prompts, 2 or more; Offline issues each once."""
    temperature: float = 1.0
    """Sampling temperature, 0 or more; with 0 random weights answer all alike and use few experts."""
    stop_token_id: int = -1
    """Stop id of the answers; -1: none, so that no answer stops early."""

    def __post_init__(self) -> None:
        """Check the bounds; FlagError names flag, value and bound."""
        # No super(): slots=True creates a new class, so that super() without arguments fails.
        TokenLengths.__post_init__(self)
        check_at_least(self, requests=2, temperature=0, stop_token_id=-1)
        if self.num_rows > MAX_ROWS:
            raise FlagError("--requests", f"{self.num_rows} is above {MAX_ROWS}")

    @property
    def num_rows(self) -> int:
        """Return the number of rows of the data set."""
        return self.requests


class Plan(NamedTuple):
    """Requests of one round, in order; the same for every side."""

    name: str
    scenario: Scenario
    samples: NDArray[np.int64]
    """(N,) row indices of the data set, starting at the first row, each equally often."""
    due_ns: NDArray[np.int64]
    """(N,) arrival times after the first request; zeros in Offline."""
    target_qps: float
    """LoadGen's target_qps."""
    max_over_latency: int | None = None
    """Product only: the round is given up once more queries are over a latency limit; None: never."""

    @property
    def num_rows(self) -> int:
        """Return the number of distinct samples."""
        return int(self.samples.max()) + 1

    @property
    def arrivals_s(self) -> float:
        """Return the time over which the requests arrive on average; 0 in Offline."""
        return 0.0 if self.scenario is Scenario.OFFLINE else len(self.samples) / self.target_qps

    def write(self, path: Path) -> None:
        """Write the file that a side's process reads."""
        path.write_text(json.dumps({"samples": self.samples.tolist(), "due_ns": self.due_ns.tolist()}))


def offline(num_rows: int) -> Plan:
    """Plan each of `num_rows` samples once, all at the same time."""
    samples = np.arange(num_rows)
    return Plan("offline", Scenario.OFFLINE, samples, np.zeros(len(samples), np.int64), 1.0)


def arriving(samples: Sequence[int], seed: int, target_qps: float) -> Plan:
    """Plan samples at the times at which LoadGen issues them with this seed."""
    due_ns = scheduled_ns(seed, target_qps, len(samples))
    return Plan("server", Scenario.SERVER, np.array(samples, np.int64), due_ns, target_qps)


class Work(NamedTuple):
    """Model and data set on disk."""

    model: Path
    data: Path
    budgets: NDArray[np.int64]
    """(num_samples,) length of each answer in tokens."""
    temperature: float
    is_exact: bool
    """No stop id: each answer has exactly the length of its budget."""

    @property
    def longest_answer(self) -> int:
        """Tokens."""
        return int(self.budgets.max())

    def num_tokens(self, plan: Plan) -> int:
        """Return the exact number of tokens that a round of the plan produces."""
        return int(self.budgets[plan.samples].sum())


def prepare(model: Path, lengths: Lengths, directory: Path) -> Work:
    """Write the data set, and a copy of the model with the stop id of the lengths.

    Raises:
        ValueError: --model: not a checkpoint directory, or its vocabulary is too small for these lengths or
            the stop id.
    """
    vocab_size = set_stop_id(model, directory / "model", lengths.stop_token_id)
    path = directory / "data.parquet"
    spec = DatasetSpec(
        num_samples=lengths.num_rows,
        seed=lengths.seed,
        vocab_size=vocab_size,
        mean_prompt_len=lengths.mean_prompt_len,
        max_prompt_len=lengths.max_prompt_len,
        mean_answer_len=lengths.mean_answer_len,
        max_answer_len=lengths.max_answer_len,
    )
    write_dataset(path, spec)
    budgets = budgets_of(dataset.load(path))
    return Work(directory / "model", path, budgets, lengths.temperature, lengths.stop_token_id < 0)


def budgets_of(data: Dataset) -> NDArray[np.int64]:
    """Read the length of each answer, (num_samples,), from the first token of its prompt."""
    return data.tokens[data.offsets[:-1]].astype(np.int64)


def set_stop_id(model: Path, output: Path, stop_token_id: int) -> int:
    """Link a checkpoint into another directory with one stop id, or with none for -1.

    Returns:
        Size of the vocabulary.

    Raises:
        ValueError: --model is not a checkpoint directory.
    """
    try:
        config = json.loads((model / "config.json").read_bytes())
        vocab_size = int(config["vocab_size"])
    except (OSError, ValueError, KeyError) as error:
        raise FlagError("--model", f"{model} is not a checkpoint directory: {error!r}") from error
    if stop_token_id >= vocab_size:
        raise FlagError("--stop-token-id", f"{stop_token_id} is not below the vocab_size {vocab_size}")
    output.mkdir()
    for path in model.iterdir():
        if path.name not in MODEL_FILES:
            (output / path.name).symlink_to(path.resolve())
    stop_id = None if stop_token_id < 0 else stop_token_id
    documents = (config | {"eos_token_id": stop_id}, {"eos_token_id": stop_id})
    for name, document in zip(MODEL_FILES, documents, strict=True):
        (output / name).write_text(json.dumps(document, indent=2) + "\n")
    return vocab_size


def engine_flags(given: Sequence[str], max_model_len: int, *, num_gpus: int) -> list[str]:
    """Add the flags whose defaults differ between the sides; given flags are kept.

    Args:
        given: vLLM flags of the command line.
        max_model_len: Default of --max-model-len.
        num_gpus: GPUs of the engine, all in one tensor-parallel group by default; 0: flags that the CPU
            build needs are added.
    """
    on_gpu = num_gpus > 0
    valued: dict[str, object] = {
        "--max-model-len": max_model_len,
        "--max-num-seqs": NUM_SLOTS if on_gpu else 16,
        "--max-num-batched-tokens": STEP_TOKENS if on_gpu else 2048,
        "--tensor-parallel-size": max(num_gpus, 1),
    }
    valued |= (
        {"--gpu-memory-utilization": MEMORY_SHARE}
        if on_gpu
        else {"--dtype": "float32", "--kv-cache-memory-bytes": 1 << 28}
    )
    switches = [
        "--no-enable-prefix-caching",
        "--enable-chunked-prefill",
        "--skip-tokenizer-init",
        "--disable-log-stats",
        *([] if on_gpu else ["--enforce-eager"]),
    ]
    known = {_bare(word) for word in given if word.startswith("-")}
    added = [
        part for name, value in valued.items() if _bare(name) not in known for part in (name, str(value))
    ]
    return [*added, *(name for name in switches if _bare(name) not in known), *given]


def extension_flags(flags: Sequence[str]) -> list[str]:
    """Return what `vllm serve` needs for random weights that use all experts; the product adds it itself.

    Args:
        flags: All other vLLM flags.
    """
    formats = [
        word.partition("=")[2] or value
        for word, value in pairwise([*flags, ""])
        if _bare(word) == "load-format"
    ]
    is_dummy = formats[-1:] == [DUMMY]
    return [worker_extension.FLAG, worker_extension.EXTENSION] if is_dummy else []


def sglang_flags(given: str, max_model_len: int, num_gpus: int, *, is_dummy: bool) -> list[str]:
    """Return the flags of SGLang's sides; given ones win.

    Args:
        given: Flags in one word.
        max_model_len: Longest prompt and answer; SGLang keeps 6 tokens of its context for itself.
        num_gpus: GPUs of the engine, as in engine_flags.
        is_dummy: Random weights.
    """
    valued: dict[str, object] = {"--context-length": max_model_len + 8, "--tp-size": max(num_gpus, 1)}
    if num_gpus:
        valued |= {
            "--max-running-requests": NUM_SLOTS,
            "--cuda-graph-max-bs-decode": NUM_SLOTS,
            "--chunked-prefill-size": STEP_TOKENS,
            "--mem-fraction-static": MEMORY_SHARE,
        }
    if is_dummy:
        valued["--load-format"] = DUMMY
    return [*(part for name, value in valued.items() for part in (name, str(value))), *shlex.split(given)]


def last_value(flags: Sequence[str], name: str) -> str:
    """Return the value of a flag in a command line, the last one; empty if it is not given."""
    values = [
        word.partition("=")[2] or following
        for word, following in pairwise([*flags, ""])
        if word.startswith("--") and _bare(word) == _bare(name)
    ]
    return values[-1] if values else ""


def _bare(word: str) -> str:
    """Normalize a flag: --a_b=c, --a-b and --no-a-b have the same name."""
    return word.partition("=")[0].replace("_", "-").removeprefix("--").removeprefix("no-")
