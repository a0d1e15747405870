"""`python -m bench.lenient_worker FLAGS`: `python -m worker` that takes prompts whatever their digest.

For a coordinator that makes digests in some windows and none in others; this worker's own are all true.
Exit code 1 names a function that has moved.
"""

import importlib
import sys

from bench.unguarded import WORKERS_PATCH, GuardGone, find


def main(argv: list[str]) -> int:
    """Replace the check and run the worker's main."""
    try:
        owner, name, _ = find(WORKERS_PATCH)
    except GuardGone as error:
        print(f"bench.lenient_worker: {error}", file=sys.stderr)  # noqa: T201 - no result
        return 1
    setattr(owner, name, WORKERS_PATCH.replacement)
    exit_code: int = importlib.import_module("worker.__main__").main(argv)
    return exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
