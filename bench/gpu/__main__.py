"""`python -m bench.gpu SHOW [FLAGS] [-- VLLM FLAGS]`: compare the product with the bare engine on GPUs.

See bench/README.md for what each part measures and how to read the output.
"""

import dataclasses
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from bench.command import (
    OutputNotWritten,
    check_output,
    describe_commit,
    describe_machine,
    new_directory,
    run_command,
    say,
    write_record,
)
from bench.flag_help import FlagFormatter, add_fields
from bench.gpu.climb import Climb, show_climb
from bench.gpu.coordinate import Setting
from bench.gpu.found import Clock, Found
from bench.gpu.gpu_rounds import Place
from bench.gpu.load import engine_flags, extension_flags, prepare, sglang_flags
from bench.gpu.model import check_place, write_full_size
from bench.gpu.offline import Offline, Server, engines_say, show_offline, show_server
from bench.gpu.race.race_command import main as race
from bench.gpu.sides import Grouped, group_tokens
from bench.gpu.watch import describe_gpus, wait_free
from bench.processes import Processes
from common.flags import FlagError, Parser


class Show(NamedTuple):
    """A part of the command."""

    what: str
    plan: Callable[..., Any]
    """A frozen dataclass whose fields are the part's flags; raises ValueError for a value out of bounds."""
    show: Callable[..., Found]


SHOWS = {
    "offline": Show("tokens/s of LLM.generate, ours, AsyncLLM and vllm serve", Offline, show_offline),
    "server": Show("TTFT and TPOT at the same arrivals", Server, show_server),
    "climb": Show("the highest rate that LoadGen calls VALID", Climb, show_climb),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The parsed command line."""

    show: Show
    plan: Any
    model: Path | None
    """None: gpt-oss-120b with random weights."""
    gpus: tuple[int, ...]
    deadline_s: float
    output: Path | None
    keep_logs: Path | None
    vllm: list[str]


def main(argv: list[str]) -> int:
    """Run a part, print and write its figures. Return 0: done, 1: incomplete or failed, 2: bad input."""
    if argv[:1] == ["race"]:
        return race(argv[1:])
    try:
        asked = _parse(argv)
    except ValueError as error:
        say(f"bench.gpu: {error}")
        return 2
    clock = Clock(asked.deadline_s)
    machine = {**describe_machine(), **describe_gpus(), "commit": describe_commit()}
    say(f"{'GPUs':<14}{machine['GPUs']}\n{'commit':<14}{machine['commit']}\n{'plan':<14}{asked.plan}")
    try:
        with tempfile.TemporaryDirectory(prefix="bench-gpu-") as name, Processes() as processes:
            directory = asked.keep_logs or Path(name)
            return _show(asked, machine, clock, processes, directory)
    except ValueError as error:
        say(f"bench.gpu: {error}")
        return 2
    except (RuntimeError, OSError) as error:
        say(f"bench.gpu: {error}")
        return 1


def _show(asked: Asked, machine: dict[str, str], clock: Clock, processes: Processes, directory: Path) -> int:
    """Run a part of the command.

    Raises:
        ValueError: --model, the lengths or vLLM's flags are invalid.
        RuntimeError: Nothing could be measured.
    """
    model, given = asked.model, asked.vllm
    if model is None:
        model, given = directory / "gpt-oss-120b", ["--load-format", "dummy", *given]
        write_full_size(model)
    work = prepare(model, asked.plan, directory)
    flags = engine_flags(given, asked.plan.max_model_len, num_gpus=len(asked.gpus))
    flags += extension_flags(flags)
    if isinstance(asked.plan, Offline) and Grouped.name in asked.plan.names:
        group_tokens(flags)
    say(f"{'vLLM flags':<14}{' '.join(flags)}")
    of_sglang = _sglang_flags(asked)
    say(f"{'SGLang flags':<14}{' '.join(of_sglang) or 'not measured'}")
    timeout_s = asked.plan.round_timeout_s
    setting = Setting(processes, work, flags, directory, timeout_s, of_sglang)
    watch_log = directory / "watch.log"
    watch_log.touch()
    if asked.gpus:
        watch = processes.start(["bench.gpu.watch"], watch_log)
        wait_free(watch, watch_log, asked.gpus, "--gpus")
    place = Place(setting, asked.gpus, watch_log, clock)
    record = Record(asked, machine, place)
    found = asked.show.show(asked.plan, place, record.keep)
    record.end(found)
    problems = [*found.failures, *(f"not run: {what}" for what in found.not_run)]
    problems += token_problems(found, exact=asked.plan.stop_token_id < 0)
    say("\n".join(problems) if problems else "all rounds of all sides have the expected number of tokens")
    return 1 if problems else 0


def _sglang_flags(asked: Asked) -> list[str]:
    """Return the flags of SGLang's sides; empty if none is measured."""
    if not isinstance(asked.plan, Offline) or "sglang" not in asked.plan.sides:
        return []
    max_model_len, is_dummy = asked.plan.max_model_len, asked.model is None
    return sglang_flags(asked.plan.sglang, max_model_len, len(asked.gpus), is_dummy=is_dummy)


class Record:
    """The --output file, written after each load and round."""

    def __init__(self, asked: Asked, machine: dict[str, str], place: Place) -> None:
        """Take the parts that do not change."""
        self._asked, self._machine, self._place = asked, machine, place

    def keep(self, found: Found) -> None:
        """Write all figures so far; a failure, for example a full disk, does not end the measurement."""
        try:
            self._write(found, is_complete=False)
        except OutputNotWritten as error:
            self._place.clock.say(str(error))

    def end(self, found: Found) -> None:
        """Write all figures.

        Raises:
            OutputNotWritten: The file cannot be written; the figures are only printed.
        """
        self._write(found, is_complete=True)

    def _write(self, found: Found, *, is_complete: bool) -> None:
        record = _record(self._asked, self._machine, self._place.setting, found)
        record |= {"is_complete": is_complete, "engines": engines_say(self._place)}
        write_record(self._asked.output, record)


def token_problems(found: Found, *, exact: bool) -> list[str]:
    """List rounds with an unexpected number of tokens; unless `exact`, the first round's is expected."""
    first: dict[int, int] = {}
    problems = []
    for one in found.rounds:
        asked = one.expected_tokens
        wanted = asked if exact else first.setdefault(asked, one.tokens)
        if one.is_unequal and one.tokens == wanted:
            problems.append(f"{one.requests} requests of {one.side} in round {one.number}, not as planned")
        if one.tokens != wanted:
            problems.append(f"{one.tokens} tokens of {one.side} in round {one.number}, not {wanted}")
    return problems


def _record(asked: Asked, machine: dict[str, str], setting: Setting, found: Found) -> dict[str, object]:
    return {
        "ended_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "plan": dataclasses.asdict(asked.plan),
        "model": str(asked.model or "gpt-oss-120b, random weights"),
        "gpus": list(asked.gpus),
        "vllm_flags": list(setting.flags),
        "sglang_flags": list(setting.sglang_flags),
        "rounds": [one.to_json() for one in found.rounds],
        "given_up": [one.to_json() for one in found.given_up],
        "starts": found.starts,
        **found.more,
        "failures": found.failures,
        "not_run": found.not_run,
    }


def _parse(argv: list[str]) -> Asked:
    """Parse the command line.

    Raises:
        FlagError: Names flag, value and bound.
    """
    cut = argv.index("--") if "--" in argv else len(argv)
    own_argv, vllm = argv[:cut], argv[cut + 1 :]
    args = vars(_build_parser().parse_args(own_argv))
    show = SHOWS[args.pop("name")]
    names = ("model", "gpus", "deadline_s", "output", "keep_logs")
    common = {name: args.pop(name) for name in names}
    if not common["deadline_s"] > 0:
        raise FlagError("--deadline-s", f"{common['deadline_s']} is not above 0")
    gpus = _read_gpus(common.pop("gpus"))
    check_place("--gpus", common["model"], is_on_gpu=bool(gpus))
    plan = show.plan(**args)
    check_output(common["output"])
    if common["keep_logs"] is not None:
        common["keep_logs"] = new_directory("--keep-logs", common["keep_logs"])
    return Asked(show=show, plan=plan, gpus=gpus, vllm=vllm, **common)


def _build_parser() -> Parser:
    parser = Parser(
        formatter_class=FlagFormatter, prog="python -m bench.gpu", allow_abbrev=False, description=__doc__
    )
    parts = parser.add_subparsers(
        dest="name", required=True, metavar="|".join([*SHOWS, "race"]), parser_class=Parser
    )
    parts.add_parser("race", help="the fastest engine configuration in steady state (bench/gpu/race)")
    for name, show in SHOWS.items():
        part = parts.add_parser(
            name, allow_abbrev=False, help=show.what, description=show.what, formatter_class=FlagFormatter
        )
        add_fields(part, show.plan)  # type: ignore[arg-type]  # see Show.plan
        part.add_argument(
            "--model",
            type=Path,
            metavar="DIR",
            help="checkpoint directory (default gpt-oss-120b with random weights)",
        )
        part.add_argument(
            "--gpus", default="", help="GPUs of each engine, as 0,1 (default the CPU, with a small --model)"
        )
        part.add_argument(
            "--deadline-s",
            type=float,
            default=86_400.0,
            help="begin no round after this time, in seconds, above 0",
        )
        part.add_argument(
            "--output", type=Path, metavar="FILE.json", help="all figures, written after each load and round"
        )
        part.add_argument(
            "--keep-logs",
            type=Path,
            metavar="DIR",
            help="keep the logs of all processes in this new or empty directory",
        )
    return parser


def _read_gpus(text: str) -> tuple[int, ...]:
    words = [word.strip() for word in text.split(",")] if text else []
    if len(set(words)) < len(words) or not all(word.isdecimal() for word in words):
        raise FlagError("--gpus", f"{text!r} is not a list of distinct indices")
    return tuple(map(int, words))


if __name__ == "__main__":
    run_command(main)
