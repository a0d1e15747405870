"""A scheduler of vLLM that runs out of memory, as a GPU would, over a prompt of one length."""

from typing import Any

SCHEDULER = f"{__name__}.FailingScheduler"
FATAL_PROMPT_LEN = 13
WORDS = "out of memory: tried to allocate 2.00 GiB"


def __getattr__(name: str) -> Any:
    """Make the class when it is asked for: this module's constants need no vLLM."""
    if name != "FailingScheduler":
        raise AttributeError(name)
    from vllm.v1.core.sched.scheduler import Scheduler

    class FailingScheduler(Scheduler):
        """Fails as soon as the fatal prompt comes."""

        def add_request(self, request: Any) -> None:
            """Take a request in."""
            if request.num_prompt_tokens == FATAL_PROMPT_LEN:
                raise MemoryError(WORDS.replace(" ", "\n", 1))
            super().add_request(request)

    return FailingScheduler
