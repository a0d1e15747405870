"""Greedy answers of vLLM's own LLM class, which uses neither this worker's engine client nor its protocol."""

import dataclasses
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from common.standard_streams import stdout_to_stderr
from worker.engine_protocol import EngineDead, EngineInfo
from worker.engines.vllm.causes import one_line
from worker.engines.vllm.core_process import ending_with_worker
from worker.engines.vllm.engine_args import EngineFlags, describe
from worker.engines.vllm.worker_extension import check_loads

if TYPE_CHECKING:
    from vllm import LLM, CompletionOutput

NUM_CANDIDATES = 2
"""Most probable tokens of each position that vLLM returns: the answer's and the runner-up."""


class GreedyAnswer(NamedTuple):
    """The answer to one prompt; the lists have the same length."""

    tokens: list[int]
    runner_ups: list[int]
    """Second most probable token of each position."""
    margins: list[float]
    """Log probability of the token minus that of the runner-up."""


def generate_greedily(
    flags: EngineFlags, prompts: Sequence[Sequence[int]], max_new_tokens: int
) -> tuple[EngineInfo, list[GreedyAnswer]]:
    """Load the model, answer the prompts and end the engine.

    Args:
        flags: The worker's engine flags.
        prompts: Token ids.
        max_new_tokens: Longest answer, in tokens.

    Raises:
        ValueError: vLLM refuses the configuration or a prompt.
        EngineDead: The engine failed.
    """
    model = flags.hash_model(threading.Event())
    with stdout_to_stderr():
        llm = _load(flags)
        check_loads(llm)
        engine = describe(flags, llm.llm_engine.vllm_config, model)
        return engine, _answers(llm, engine.stop_token_ids, prompts, max_new_tokens)


def _load(flags: EngineFlags) -> "LLM":
    """Construct vLLM's LLM class with the worker's arguments."""
    from vllm import LLM
    from vllm.engine.arg_utils import EngineArgs
    from vllm.exceptions import VLLMValidationError

    # A worker's arguments are those of EngineArgs and some of vLLM's server.
    names = [field.name for field in dataclasses.fields(EngineArgs)]
    try:
        with ending_with_worker():
            return LLM(**{name: getattr(flags.engine_args, name) for name in names})
    except (ValueError, NotImplementedError, VLLMValidationError) as error:
        raise ValueError(one_line(error)) from error
    except (RuntimeError, OSError, AssertionError) as error:
        raise EngineDead(one_line(error)) from error


def _answers(
    llm: "LLM", stop_ids: Sequence[int], prompts: Sequence[Sequence[int]], max_new_tokens: int
) -> list[GreedyAnswer]:
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt

    params = SamplingParams(
        temperature=0.0,
        max_tokens=max_new_tokens,
        stop_token_ids=list(stop_ids),
        ignore_eos=True,
        detokenize=False,
        logprobs=NUM_CANDIDATES,
    )
    outputs = llm.generate(
        [TokensPrompt(prompt_token_ids=list(prompt)) for prompt in prompts], params, use_tqdm=False
    )
    return [_answer(output.outputs[0]) for output in outputs]


def _answer(output: "CompletionOutput") -> GreedyAnswer:
    tokens = list(output.token_ids)
    runner_ups, margins = [], []
    for token, candidates in zip(tokens, output.logprobs or (), strict=True):
        found = {candidate: entry.logprob for candidate, entry in (candidates or {}).items()}
        own = found.pop(token)
        second = max(found, key=found.__getitem__)
        runner_ups.append(second)
        margins.append(own - found[second])
    return GreedyAnswer(tokens, runner_ups, margins)
