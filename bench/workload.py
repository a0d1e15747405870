"""Prompts with known answers, and the input files of a coordinator run."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sut.settings import Scenario
from worker.engines.scripted.answers import COUNT_MODULUS, STOP_TOKEN_ID

SEED = 20_002


def read_answers(accuracy_log: Path) -> Iterator[tuple[int, NDArray[np.int32]]]:
    """Read LoadGen's accuracy log entry by entry; yield the sample index and its tokens.

    Raises:
        RuntimeError: The number of tokens in an entry differs from its token count.
    """
    with accuracy_log.open(encoding="utf-8") as file:
        for line in file:
            text = line.strip().rstrip(",")
            if not text.startswith("{"):
                continue
            entry = json.loads(text)
            answer = np.frombuffer(bytes.fromhex(entry["data"]), "<i4")
            if entry["token_count"] != len(answer):
                raise RuntimeError(f"{accuracy_log}: sample {entry['qsl_idx']} is incomplete")
            yield entry["qsl_idx"], answer


def counting_answer(prompt: NDArray[np.int32]) -> NDArray[np.int32]:
    """Compute the counting engine's answer from its definition; the prompt's first token is at least 1."""
    answer = (int(prompt[-1]) + np.arange(1, int(prompt[0]) + 1)) % COUNT_MODULUS
    answer[-1] = STOP_TOKEN_ID
    return answer.astype(np.int32)


def draw_prompts(num: int, prompt_tokens: int, shortest: int, longest: int) -> NDArray[np.int32]:
    """Draw prompts, (num, prompt_tokens), with answers of `shortest` to `longest` tokens.

    The first token of each prompt is the length of its answer.
    """
    rng = np.random.default_rng(SEED)
    prompts = rng.integers(0, COUNT_MODULUS, (num, prompt_tokens), np.int32)
    prompts[:, 0] = rng.integers(shortest, longest, num, endpoint=True)
    return prompts


def write_prompts(path: Path, prompts: NDArray[np.int32]) -> Path:
    """Write a data set in the schema of the reference implementation."""
    pd.DataFrame({"tok_input": list(prompts)}).to_parquet(path)
    return path


def compose_user_conf(scenarios: Iterable[Scenario], values: Mapping[str, float]) -> str:
    """Return user.conf lines for LoadGen, with the same values for each scenario."""
    # In LoadGen a mlperf.conf line with the model's name takes precedence over a line with `*`.
    prefixes = [f"{scenario.model_name}.{scenario.loadgen_name}" for scenario in scenarios]
    return "".join(f"{prefix}.{key} = {value}\n" for prefix in prefixes for key, value in values.items())
