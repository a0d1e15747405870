"""A program with flags of another one accepts each of them, or refuses it and does not list it."""

import re
from pathlib import Path

import pytest

from tests.forked import end_of
from tokenfleet.cli import SUBCOMMANDS, main

RUN = ["--workers", "127.0.0.1:1", "--input-file", "none.parquet"]
REFERENCE = ["--model", "none", "--input-file", "none.parquet", "--output", "none.json"]
# The programs that print their flags; those with other programs' flags name the one that prints them.
PRINTING = {"run": RUN, "worker": ["--engine", "counting"]}
SHARING = {
    "doctor": ["doctor", *RUN],
    "doctor of files": ["doctor", "--inputs-only", "--input-file", "none.parquet"],
    "find-qps": ["find-qps", *RUN, "--min-qps", "1", "--scenario", "server"],
    "local": ["local", "--backend", "counting", "--input-file", "none.parquet"],
    "qualify reference": ["qualify", "reference", *REFERENCE],
}


@pytest.mark.parametrize("name", PRINTING)
def test_a_program_prints_its_flags(name: str, tmp_path: Path) -> None:
    """Its flags come as TOML, and it starts nothing."""
    code, output, errors = end_of(main, [name, *PRINTING[name], "--print-config"], tmp_path)
    assert (0, "") == (code, errors)
    assert output.startswith("[coordinator]\n" if name == "run" else "[worker]\n")


@pytest.mark.parametrize("name", SHARING)
def test_a_program_with_the_flags_of_another_refuses(name: str, tmp_path: Path) -> None:
    """One line names the program that prints them, exit code 2; --help does not list the flag."""
    code, output, errors = end_of(main, [*SHARING[name], "--print-config"], tmp_path)
    assert (2, "", 1) == (code, output, errors.count("\n"))
    assert ": --print-config: use `tokenfleet " in errors
    words = ["qualify", "reference"] if name == "qualify reference" else SHARING[name][:1]
    assert "--print-config" not in end_of(main, [*words, "--help"], tmp_path)[1]


@pytest.mark.parametrize("name", sorted(SUBCOMMANDS.keys() - PRINTING.keys() - {"probe"}))
def test_only_programs_that_print_list_the_flag(name: str, tmp_path: Path) -> None:
    """--help of a program that does not print its flags has no --print-config."""
    assert "--print-config" not in end_of(main, [name, "--help"], tmp_path)[1]


# What each program refuses of a run's flags, and how a flag with a value is given.
REFUSED = {
    "find-qps": [
        ["--accuracy"],
        ["--audit-config", "a.config"],
        ["--compliance", "TEST07"],
        ["--max-over-latency", "8"],
        ["--overwrite"],
        ["--target-qps", "8"],
    ],
    "local": [
        ["--network-sut"],
        ["--tls-ca", "a.pem"],
        ["--tls-cert", "a.pem", "--tls-key", "a.key"],
        ["--workers", "127.0.0.1:1"],
    ],
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_flag_is_named_and_not_listed(name: str, tmp_path: Path) -> None:
    """One line that begins with the flag, exit code 2, and no such flag in --help."""
    shown = end_of(main, [name, "--help"], tmp_path)[1]
    assert "--user-conf FILE" in shown
    for words in REFUSED[name]:
        code, output, errors = end_of(main, [*SHARING[name], *words], tmp_path)
        assert (2, "", 1) == (code, output, errors.count("\n")), words
        assert f"{name}: {words[0]}: " in errors
        assert not re.search(rf"{words[0]}\b(?!-)", shown.partition("options:")[2])
