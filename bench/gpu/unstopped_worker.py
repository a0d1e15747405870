"""`python -m bench.gpu.unstopped_worker FLAGS`: `python -m worker FLAGS`, also for a model without stop ids.

The product refuses such a model. In bench.gpu every answer is to have exactly the length of its budget.
"""

import importlib
import json
import sys
from pathlib import Path

from common.standard_streams import leave
from worker.engines.model import checkpoint

MODEL_FILES = ("config.json", "generation_config.json")
"""Files with a model's stop ids."""
_checked_stop_token_ids = checkpoint.stop_token_ids


def stop_ids_or_none(model: Path, generation_config_path: Path | None = None) -> tuple[int, ...]:
    """Return the stop ids of a model; none if both of its files have null.

    Raises:
        FlagError: As in the product, if a file has another value.
    """
    named = [json.loads((model / name).read_bytes())["eos_token_id"] for name in MODEL_FILES]
    return () if named == [None, None] else _checked_stop_token_ids(model, generation_config_path)


def accept_no_stop_ids() -> None:
    """Let the engines of this process load a model without stop ids."""
    # Modules of the engines import the function by name, so it is replaced before those are imported.
    vars(checkpoint)["stop_token_ids"] = stop_ids_or_none


def main(argv: list[str]) -> None:
    """Run the worker and end the process with its exit code."""
    accept_no_stop_ids()
    worker = importlib.import_module("worker.__main__")
    leave(worker.main(argv))


if __name__ == "__main__":
    main(sys.argv[1:])
