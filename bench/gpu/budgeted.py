"""`python -m bench.gpu.budgeted FLAGS`: `python -m coordinator FLAGS` with a separate budget per request.

The product has one budget for all requests of a run. Here the first token of each prompt is the length of its
answer, as in the data sets of sut.synthetic; this also holds for requests that continue on another worker.
"""

import importlib
import sys

import numpy as np
from numpy.typing import NDArray

from protos import columns


def budgeted(prompts: columns.PromptColumns) -> columns.PromptColumns:
    """Set each request's budget to its prompt's first token, minus the tokens that it already has."""
    ends = prompts.prompt_lens.cumsum(dtype=np.int64)
    asked = prompts.prompt_tokens[ends - prompts.prompt_lens].astype(np.uint32)
    return prompts._replace(max_new_tokens=np.minimum(asked - prompts.produced, prompts.max_new_tokens))


class BudgetedRules(columns.AnswerRules):
    """Checks of answers that may end with LENGTH at any length: the coordinator knows one budget."""

    def check_end(self, answer: NDArray[np.uint32], reason: int, budget: int) -> None:
        """Check an answer that ends, except its length, which bench.gpu compares."""
        super().check_end(answer, reason, min(budget, len(answer)))


def main(argv: list[str]) -> int:
    """Run the coordinator with these budgets in its prompts."""
    pack_submit = columns.pack_submit
    # The coordinator's modules import both by name, so they are replaced before those are imported.
    vars(columns)["pack_submit"] = lambda prompts: pack_submit(budgeted(prompts))
    vars(columns)["AnswerRules"] = BudgetedRules
    exit_code: int = importlib.import_module("coordinator.__main__").main(argv)
    return exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
