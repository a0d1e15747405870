"""A flag is declared once, on its field: parser, bound, TOML key and help are derived from it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest

from common.config_file import join_lists, to_table
from common.flags import Flag, FlagError, Flags, Parser, UnknownFlagsError, add_flags, build, names


@dataclass(frozen=True, slots=True, kw_only=True)
class PollConfig(Flags):
    """A configuration whose only declaration is this class."""

    poll_interval_s: Annotated[float, Flag("time between two polls, in seconds", gt=0, metavar="S")] = 1.5
    num_polls: Annotated[int | None, Flag("polls in all", ge=1, default_text="no limit")] = None
    share: Annotated[float, Flag("share of a core", ge=0, le=1)] = 0.5
    wait_s: Annotated[float, Flag("longest wait, in seconds", ge=0, finite=False)] = 0.0
    hosts: Annotated[tuple[str, ...], Flag("where to poll")]
    log: Annotated[Path | None, Flag("log file")] = None
    quiet: Annotated[bool, Flag("log nothing")] = False


def parse(*argv: str) -> PollConfig:
    """Read a command line."""
    parser = Parser(allow_abbrev=False)
    add_flags(parser, PollConfig)
    return build(PollConfig, parser.parse_args(argv))


def test_the_field_alone_makes_the_flag() -> None:
    """Options, types and defaults of the parser are those of the fields."""
    argv = ["--poll-interval-s", "2", "--num-polls", "3", "--share", "1", "--hosts", "a,b"]
    argv += ["--log", "x.log", "--quiet"]
    made = PollConfig(
        poll_interval_s=2.0, num_polls=3, share=1.0, hosts=("a", "b"), log=Path("x.log"), quiet=True
    )
    assert made == parse(*argv)
    assert PollConfig(hosts=("a",)) == parse("--hosts", "a")


@pytest.mark.parametrize(
    "line, argv",
    [
        ("--poll-interval-s: -3.0 is not above 0 and finite", "--poll-interval-s=-3"),
        ("--poll-interval-s: nan is not above 0 and finite", "--poll-interval-s=nan"),
        ("--poll-interval-s: inf is not above 0 and finite", "--poll-interval-s=inf"),
        ("--poll-interval-s: invalid float value: 'x'", "--poll-interval-s=x"),
        ("--num-polls: 0 is below 1", "--num-polls=0"),
        ("--share: 1.5 is not in 0..1", "--share=1.5"),
        ("--share: nan is not in 0..1", "--share=nan"),
        ("--wait-s: nan is below 0", "--wait-s=nan"),
        ("--wait-s: -1.0 is below 0", "--wait-s=-1"),
        ("--share: expected one argument", "--share"),
        ("--quiet/--no-quiet: ignored explicit argument '1'", "--quiet=1"),
    ],
)
def test_a_bad_value_names_flag_value_and_bound(line: str, argv: str) -> None:
    """A value of the wrong type or out of bounds is a FlagError, which carries the flag beside its text."""
    with pytest.raises(FlagError) as caught:
        parse("--hosts", "a", argv)
    assert line == str(caught.value)
    assert argv.partition("=")[0] in caught.value.names
    assert line == f"{caught.value.flag}: {caught.value.reason}"


def test_a_value_set_in_python_has_the_same_bound() -> None:
    """A configuration that no command line made is checked alike."""
    with pytest.raises(FlagError, match=r"^--poll-interval-s: 0 is not above 0 and finite$"):
        PollConfig(hosts=(), poll_interval_s=0)
    assert float("inf") == PollConfig(hosts=(), wait_s=float("inf")).wait_s
    # Too large for a float.
    assert 10**400 == PollConfig(hosts=(), num_polls=10**400).num_polls


def test_words_that_no_flag_takes_are_kept_apart() -> None:
    """What is left of a command line comes as words, abbreviations and a word with a space included."""
    with pytest.raises(UnknownFlagsError) as caught:
        parse("--hosts", "a", "--poll", "a b")
    assert ("--poll", "a b") == caught.value.words
    with pytest.raises(ValueError, match=r"^the following arguments are required: --hosts$"):
        parse()


@pytest.mark.parametrize(
    "hint, says",
    [
        (Annotated[float, Flag("no bound")], "a number needs a bound"),
        (Annotated[int | None, Flag("no bound")], "a number needs a bound"),
        (Annotated[float, Flag("no lower bound", le=1)], "a number needs a bound"),
        (Annotated[float, Flag("two lower bounds", ge=0, gt=0)], "a number needs a bound"),
        (Annotated[float, Flag("open below, closed above", gt=0, le=1)], "a number needs a bound"),
        (Annotated[str, Flag("bound of a text", ge=0)], "only a number has a bound"),
        (Annotated[bytes, Flag("unknown type")], "no flag has a value of type bytes"),
        (float, "a value of type float needs a Flag"),
        (str | None, "a value of type str needs a Flag"),
    ],
)
def test_a_number_without_a_bound_cannot_be_declared(hint: object, says: str) -> None:
    """Whatever a field is called, a class that declares it without its bound does not come to exist."""
    with pytest.raises(TypeError, match=rf"^Wrong\.new_interval_s: {says}"):
        type("Wrong", (Flags,), {"__annotations__": {"new_interval_s": hint}})


def test_the_file_has_the_same_keys() -> None:
    """A table of TOML has a key for each flag that is not None; a list is one word on the command line."""
    table = to_table(PollConfig(hosts=("a", "b"), log=Path("x.log")))
    expected = {"poll-interval-s": 1.5, "share": 0.5, "wait-s": 0.0, "hosts": ["a", "b"], "log": "x.log"}
    assert expected | {"quiet": False} == table
    assert "a,b" == join_lists(PollConfig, table)["hosts"]
    assert {*table, "num-polls"} == set(names(PollConfig))


def test_help_has_requirement_default_bound_and_placeholder() -> None:
    """--help shows the sentence of a field with its facts, and a placeholder by type or as declared."""
    parser = Parser(prog="poll", allow_abbrev=False)
    add_flags(parser, PollConfig)
    shown = " ".join(parser.format_help().split())
    assert "--poll-interval-s S time between two polls, in seconds (default 1.5; above 0)" in shown
    assert "--num-polls N polls in all (default no limit; 1 or more)" in shown
    assert "--hosts A[,B...] where to poll (required)" in shown
    assert "--log FILE log file --quiet, --no-quiet log nothing (default off)" in shown


def test_help_hides_what_a_program_refuses() -> None:
    """A hidden flag is still parsed; one with a default of the program's own is not shown as required."""
    parser = Parser(prog="poll", allow_abbrev=False)
    add_flags(parser, PollConfig, {"hosts": ()}, hidden=["log", "quiet"])
    shown = " ".join(parser.format_help().split())
    assert "--hosts A[,B...] where to poll --" not in shown
    assert shown.endswith("--hosts A[,B...] where to poll")
    assert "--log" not in shown and "--quiet" not in shown
    assert Path("x.log") == build(PollConfig, parser.parse_args(["--log", "x.log"])).log


def test_a_refusal_is_one_line_whatever_a_name_holds() -> None:
    """A line end and a terminal's commands in a path or a word are replaced, also in the part behind it."""
    error = FlagError("--log", "is not a directory", Path("a\x1b[31m\nb"))
    assert str(error) == "--log a?[31m?b: is not a directory"
    assert error.value_and_reason == "a?[31m?b: is not a directory"
    assert str(UnknownFlagsError(["--a\n", "b"])) == "unrecognized arguments: --a? b"
