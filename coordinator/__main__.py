"""`python -m coordinator` runs LoadGen once; `python -m coordinator doctor` checks what a run needs.

Exit codes: 0 VALID or NOT_GRADED, 1 failed, 2 bad input, 3 complete but INVALID; interrupted: 129 SIGHUP,
130 SIGINT, 131 SIGQUIT, 143 SIGTERM.
"""

import sys

try:
    from common.command_exit import BAD_INPUT, FAILED, INTERRUPTED, end_command
    from common.config_file import PRINT_FLAG, name_source, to_table, to_toml, unset_flags
    from common.open_files import raise_open_file_limit
    from common.signals import Interrupted
    from common.standard_streams import BackgroundStream, leave, log_to_stderr, open_standard_streams
    from coordinator.config import RunConfig, parse
    from coordinator.doctor import command
    from coordinator.run import run
    from coordinator.transport.stream import WorkerLost
except KeyboardInterrupt:
    sys.stderr.write("coordinator: interrupted\n")
    sys.exit(130)


def main(argv: list[str]) -> int:
    """Run LoadGen once, or the doctor, and return the exit code."""
    open_standard_streams()
    raise_open_file_limit()
    with BackgroundStream("stderr"):
        log_to_stderr()
        return _execute(argv)


def _execute(argv: list[str]) -> int:
    try:
        return _run_command(argv)
    except ValueError as error:
        return end_command("coordinator", name_source(error, argv, "coordinator"), BAD_INPUT)
    except WorkerLost as error:
        return end_command("coordinator", f"lost before the run began: {error}", FAILED)
    except Interrupted as interruption:
        return end_command("coordinator", f"interrupted by {interruption}", interruption.exit_code)
    except KeyboardInterrupt:
        # SIGINT before the program has installed its own handler.
        return end_command("coordinator", "interrupted", INTERRUPTED)


def _run_command(argv: list[str]) -> int:
    if argv[:1] == ["doctor"]:
        return command.main(argv[1:])
    if argv and not argv[0].startswith("-"):
        reason = "is not a command: the only command is doctor; a run takes flags only"
        raise ValueError(f"{argv[0]!r} {reason}")
    config = parse(argv)
    if PRINT_FLAG in argv:
        table = to_table(config)
        print(to_toml("coordinator", table, unset_flags([RunConfig], table)), end="")
        return 0
    return run(config)


if __name__ == "__main__":
    # Program name in the usage line.
    sys.argv[0] = "python -m coordinator"
    leave(main(sys.argv[1:]))
