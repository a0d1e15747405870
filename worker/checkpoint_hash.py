"""`tokenfleet checkpoint-hash --model MODEL`: hash a checkpoint's weights completely, once.

`python -m worker.checkpoint_hash` is the same program. A worker hashes a sample of the weights at each start.
This program reads all of them and stores the hashes beside them; workers that find them report them, and a
run refuses workers that report different ones. Prints one line for each file in the format of sha256sum, then
the hash of all. Exit codes: 0 stored; 2 bad input.
"""

import sys
from dataclasses import dataclass
from typing import Annotated

from common.command_exit import run_command
from common.flags import Flag, FlagError, Flags, Parser, add_flags, build
from worker.engines.model.checkpoint import Source, find_checkpoint, find_weights
from worker.engines.model.weights_sha256 import weights_sha256, write_sums


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointHashConfig(Flags):
    """Flags of the program; those of the worker with the same names."""

    model: Annotated[str, Flag("directory or Hugging Face name of the checkpoint")]
    revision: Annotated[str | None, Flag("branch, tag or commit of a Hugging Face name")] = None
    download_dir: Annotated[str | None, Flag("cache of Hugging Face names that the worker uses")] = None
    load_format: Annotated[str, Flag("vLLM's load format, which determines the weight files")] = "auto"


def main(argv: list[str]) -> int:
    """Run the program and return its exit code."""
    return run_command("checkpoint-hash", _hash, argv)


def _hash(argv: list[str]) -> int:
    description = "Hash a checkpoint's weights completely and store the hashes beside them."
    parser = Parser(allow_abbrev=False, description=description)
    add_flags(parser, CheckpointHashConfig)
    config = build(CheckpointHashConfig, parser.parse_args(argv))
    source = Source(config.model, config.revision, config.download_dir)
    find_checkpoint(*source)
    weights = find_weights(*source)
    if weights is None:
        raise FlagError("--model", f"{config.model} is neither a directory nor in the Hugging Face cache")
    sums = write_sums(weights, config.load_format)
    lines = [f"{item.sha256}  {name}" for name, item in sorted(sums.items())]
    sys.stdout.write("\n".join([*lines, f"{weights_sha256(sums)}  all weight files of {weights}", ""]))
    return 0


if __name__ == "__main__":
    # Program name in the usage line.
    sys.argv[0] = "python -m worker.checkpoint_hash"
    sys.exit(main(sys.argv[1:]))
