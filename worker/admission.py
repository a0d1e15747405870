"""Admission checks: run ids, run specifications, prompts, and the limits on requests in flight."""

import numpy as np

from protos import worker_pb2 as pb
from protos.columns import FrameError, PromptColumns, RequestNames

MAX_RUN_ID_LEN = 256
# A million requests take 0.2 GB of Python objects here and another 0.2 GB in an engine. The largest data set
# that LoadGen uses for this model has 6,396 samples.
MAX_REQUESTS = 1 << 20
# 1 GiB as <i4: 8,192 prompts of 32,768 tokens. No run needs more; a coordinator that exceeds it has a leak.
MAX_PROMPT_TOKENS = 1 << 28


class LimitExceeded(Exception):
    """A limit of this worker is exceeded; the message gives the value and the limit."""


class InFlight:
    """Names and prompt lengths of the requests that a run has in the engine, and when they came."""

    def __init__(self) -> None:
        self._prompt_lens: dict[int, int] = {}
        self._received_ns: dict[int, int] = {}
        """Of the requests that have not begun."""
        self._prompt_tokens = 0

    def add(self, prompts: PromptColumns, received_ns: int) -> None:
        """Add requests, all of them or none.

        Args:
            prompts: The requests.
            received_ns: When they were taken from the stream.

        Raises:
            FrameError: One is in flight already; the engine would mix up their tokens.
            LimitExceeded: More requests or prompt tokens than a worker accepts.
        """
        prompt_lens = dict(zip(prompts.requests.tolist(), prompts.prompt_lens.tolist(), strict=True))
        if not self._prompt_lens.keys().isdisjoint(prompt_lens):
            name = min(self._prompt_lens.keys() & prompt_lens.keys())
            raise FrameError(f"submit: request {name} is in flight already")
        num_requests = len(self._prompt_lens) + len(prompt_lens)
        if num_requests > MAX_REQUESTS:
            raise LimitExceeded(f"{num_requests} requests in flight, this worker takes {MAX_REQUESTS}")
        num_tokens = self._prompt_tokens + len(prompts.prompt_tokens)
        if num_tokens > MAX_PROMPT_TOKENS:
            raise LimitExceeded(
                f"{num_tokens} prompt tokens in flight, this worker takes {MAX_PROMPT_TOKENS}"
            )
        self._prompt_lens.update(prompt_lens)
        self._received_ns.update(dict.fromkeys(prompt_lens, received_ns))
        self._prompt_tokens = num_tokens

    def remove(self, requests: RequestNames) -> None:
        """Remove requests, (R,), that finished or were cancelled; names not in flight are ignored."""
        for name in requests.tolist():
            self._prompt_tokens -= self._prompt_lens.pop(name, 0)
            self._received_ns.pop(name, None)

    def begin(self, requests: RequestNames) -> list[int]:
        """Return when requests, (R,), that begin now were taken from the stream; 0: not in flight."""
        return [self._received_ns.pop(name, 0) for name in requests.tolist()]


def check_run_id(run_id: str) -> None:
    """Check a run id before it appears in logs and status messages.

    Raises:
        FrameError: It is too long or not printable.
    """
    if len(run_id) > MAX_RUN_ID_LEN:
        raise FrameError(f"run_id of {len(run_id)} characters, at most {MAX_RUN_ID_LEN} are taken")
    if not run_id.isprintable():
        raise FrameError(f"run_id {run_id!a} is not printable")


def check_spec(spec: pb.RunSpec, info: pb.WorkerInfo) -> None:
    """Check a run specification against this worker.

    Raises:
        FrameError: A value is out of bounds; the message names it.
    """
    # vLLM refuses a temperature above 2.
    if not 0 <= spec.temperature <= 2:
        raise FrameError(f"temperature {spec.temperature} is not in [0, 2]")
    if not 0 < spec.top_p <= 1:
        raise FrameError(f"top_p {spec.top_p} is not in (0, 1]")
    if spec.top_k == 0 or spec.top_k < -1:
        raise FrameError(f"top_k {spec.top_k} is neither -1 nor 1 or more")
    if not 1 <= spec.max_new_tokens < info.max_model_len:
        raise FrameError(f"max_new_tokens {spec.max_new_tokens} is not in [1, {info.max_model_len})")


def check_prompts(prompts: PromptColumns, spec: pb.RunSpec, info: pb.WorkerInfo) -> None:
    """Check prompts against the model's vocabulary and maximum length and the run's token budget.

    Raises:
        FrameError: The message names the value and the bound.
    """
    if not len(prompts.requests):
        return
    low, high = int(prompts.prompt_tokens.min()), int(prompts.prompt_tokens.max())
    if low < 0 or high >= info.vocab_size:
        raise FrameError(f"token id {low if low < 0 else high} outside the vocabulary of {info.vocab_size}")
    longest_answer = int(prompts.max_new_tokens.max())
    if longest_answer > spec.max_new_tokens:
        raise FrameError(f"budget of {longest_answer} tokens beyond the run's {spec.max_new_tokens}")
    longest = int((prompts.prompt_lens.astype(np.int64) + prompts.max_new_tokens).max())
    if longest > info.max_model_len:
        raise FrameError(f"prompt and budget of {longest} tokens beyond max_model_len {info.max_model_len}")
