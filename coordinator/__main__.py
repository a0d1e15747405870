"""`python -m coordinator`: flags, one run; `python -m coordinator doctor`: flags, one table.

Exit codes: 0 valid, 1 failed, 2 bad input, 3 complete but INVALID, 130 or 143 interrupted.
"""

import logging
import sys

from common.config_file import PRINT_FLAG, name_source, to_table, to_toml
from common.signals import Interrupted
from coordinator.config import parse
from coordinator.doctor import command
from coordinator.run import run


def main(argv: list[str]) -> int:
    """Run once, or check what a run needs, and return the exit code."""
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        if argv[:1] == ["doctor"]:
            return command.main(argv[1:])
        if argv and not argv[0].startswith("-"):
            raise ValueError(f"{argv[0]!r} is no command: there is doctor, and a run has flags alone")
        config = parse(argv)
        if PRINT_FLAG in argv:
            print(to_toml("coordinator", to_table(config)), end="")
            return 0
        return run(config)
    except ValueError as error:
        print(f"coordinator: {name_source(error, argv, 'coordinator')}", file=sys.stderr)
        return 2
    except Interrupted as interruption:
        print(f"coordinator: interrupted by {interruption}", file=sys.stderr)
        return interruption.exit_code
    except KeyboardInterrupt:
        # Only the doctor: a run handles its signals itself.
        print("coordinator: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    # The name of the program in its usage line.
    sys.argv[0] = "python -m coordinator"
    sys.exit(main(sys.argv[1:]))
