"""A vLLM scheduler that raises an out-of-memory error for prompts of one length, as a GPU would."""

from typing import Any

SCHEDULER = f"{__name__}.FailingScheduler"
FATAL_PROMPT_LEN = 13
WORDS = "out of memory: tried to allocate 2.00 GiB"


def __getattr__(name: str) -> Any:
    """Create the class on first use: importing this module's constants needs no vLLM."""
    if name != "FailingScheduler":
        raise AttributeError(name)
    from vllm.v1.core.sched.scheduler import Scheduler

    class FailingScheduler(Scheduler):
        """Raises when the fatal prompt is added."""

        def add_request(self, request: Any) -> None:
            """Add a request, or fail."""
            if request.num_prompt_tokens == FATAL_PROMPT_LEN:
                raise MemoryError(WORDS.replace(" ", "\n", 1))
            super().add_request(request)

    return FailingScheduler
