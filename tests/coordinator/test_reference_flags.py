"""Flags that only the MLPerf reference has are answered with what to use instead."""

import sys

import pytest

from coordinator.config import build_parser, expand
from coordinator.reference_flags import INSTEAD
from tests.forked import completed_command


@pytest.mark.parametrize("flag", INSTEAD)
def test_a_flag_of_the_reference_is_answered(flag: str) -> None:
    """Each is refused with one line of advice, which names only flags that this program has."""
    for argv in ([flag, "3"], [f"{flag}=3"], ["--accuracy", flag]):
        with pytest.raises(ValueError, match=f"^{flag}: is a flag of the MLPerf reference: ") as caught:
            expand(argv)
        assert INSTEAD[flag] in str(caught.value)
    own = {option for action in build_parser()._actions for option in action.option_strings}
    assert flag not in own
    advised = {word.strip(";,:") for word in INSTEAD[flag].split() if word.startswith("--")}
    assert set() == advised - own - {"--engine", "--backend", "--max-num-seqs"}


@pytest.mark.parametrize("program", ["run", "doctor", "local"])
def test_every_program_with_the_flags_of_a_run_answers(program: str) -> None:
    """Run, doctor and local end with exit code 2 and the advice in one line."""
    command = [
        sys.executable,
        "-m",
        "tokenfleet",
        program,
        "--mlperf-conf",
        "mlperf.conf",
        "--input-file",
        "x",
    ]
    command += ["--backend", "counting"] if program == "local" else ["--workers", "a:1"]
    done = completed_command(command)
    assert (2, "") == (done.returncode, done.stdout)
    (line,) = done.stderr.splitlines()
    assert f"--mlperf-conf: is a flag of the MLPerf reference: {INSTEAD['--mlperf-conf']}" in line
