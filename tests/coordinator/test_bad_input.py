"""Flags and files that a user can get wrong: one line that says it, exit code 2, and nothing left behind.

A mistake is tried in a process of its own, forked from one that has done the imports.
"""

import os
import pickle
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

from coordinator.__main__ import main
from coordinator.doctor.findings import MAX_SEEN_LEN
from tests import fleet
from tests.forked import completed_command, end_of
from tests.sut.dataset_files import POINTERS_FRAME

NOBODY = "127.0.0.1:9"  # the discard port; a mistake must be found before any worker is called


class Bad(NamedTuple):
    """One mistake."""

    name: str
    flags: str
    """Appended to a good command line, of which the last of two equal flags counts; {d} is `files`."""
    says: str
    """Words of the one line, `|` between them; {d} as above."""


class Intruder:
    """Unpickling this makes a directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        """Name what the unpickler should call."""
        return os.mkdir, (str(self.path),)


FILES = {
    "garbage.parquet": "PAR1 and nothing more",
    "empty.parquet": "",
    "lfs.pkl": "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
    "tight.conf": "*.Server.target_qps=10\n",
    "key.conf": "# a comment\n\n*.Server.target_qsp = 10\n",
    "word.conf": "*.Server.target_qps = fast\n",
    "nan.conf": "*.Server.target_qps = nan\n",
    "zero.conf": "*.Server.target_qps = 0\n",
    "minus.conf": "*.Offline.min_duration = -1\n",
    "scenario.conf": "*.Sever.target_qps = 10\n",
    "rate.conf": "gpt-oss-120B.Server.target_qps = 10\n",
    "count.conf": "*.Offline.performance_sample_count_override = 11\n",
    "no_test.config": "*.*.mode = 2\n*.*.min_duration = 0\n",
    "test07.config": "*.*.test07_accuracy_threshold = 60.698\n",
    "test09.config": "*.*.test09_min_output_tokens = 1150.38\n",
    "both.config": "*.*.test07_accuracy_threshold = 1\n*.*.test09_min_output_tokens = 1\n",
    "count07.config": "*.*.test07_accuracy_threshold = 1\n*.*.performance_sample_count_override = 991\n",
    "key.json": '{"_comment": "fine", "top_p": 1.0, "temprature": 1.0}',
    "top_p.json": '{"top_p": 2}',
    "budget.json": '{"max_new_tokens": 0}',
    "word.json": '{"temperature": "hot"}',
    "list.json": "[1]",
    "broken.json": '{"top_p": ',
    "interactive.conf": "*.Interactive.target_qps = 10\n",
    "accuracy.config": "*.*.mode = 1\n*.*.test07_accuracy_threshold = 1\n",
}
BAD = [
    Bad("unknown scenario", "--scenario stream", "--scenario|'stream'|offline|server|interactive"),
    Bad("unknown flag", "--max-smaples 3", "--max-smaples"),
    Bad("budget of 0", "--max-new-tokens 0", "--max-new-tokens|0|below 1"),
    Bad("budget beyond", "--max-new-tokens 5000000000", ": --max-new-tokens: 5000000000|4294967295"),
    Bad("budget of words", "--max-new-tokens many", "--max-new-tokens|'many'"),
    Bad("rate of 0", "--target-qps 0", "--target-qps|0.0|above 0"),
    Bad("rate of nan", "--target-qps nan", "--target-qps|nan|above 0"),
    Bad("rate of inf", "--target-qps inf", "--target-qps|inf|finite"),
    Bad("less than a ping", "--worker-timeout-s 1.9", "--worker-timeout-s|1.9|below 2"),
    Bad("stall of nan", "--stall-timeout-s nan", "--stall-timeout-s|nan|below 2"),
    Bad("patience below 0", "--ready-timeout-s -1", "--ready-timeout-s|-1.0|above 0"),
    Bad("no workers", "--workers=", "--workers|''|host:port"),
    Bad("no port", "--workers 127.0.0.1", "--workers|'127.0.0.1'|host:port"),
    Bad("no host", "--workers :50051", "--workers|':50051'|host:port"),
    Bad("port of 0", "--workers node:0", "--workers|'node:0'|1..65535"),
    Bad("port beyond", "--workers node:70000", "--workers|'node:70000'|1..65535"),
    Bad("scheme", "--workers http://127.0.0.1:9", "--workers|'http://127.0.0.1:9'|host:port|'/'"),
    Bad("no brackets", "--workers ::1:9", "--workers|'::1:9'|host:port|[::1]:50051"),
    Bad("a gap", "--workers a:1,,b:2", "--workers|''|host:port"),
    Bad("twice", "--workers a:1,b:2,a:1", "--workers|a:1|2 times"),
    Bad("no input file", "--input-file {d}/absent.parquet", "--input-file|{d}/absent.parquet|No such file"),
    Bad("a folder", "--input-file {d}/folder.parquet", "--input-file|{d}/folder.parquet|Is a directory"),
    Bad("empty file", "--input-file {d}/empty.parquet", "--input-file|{d}/empty.parquet|empty"),
    Bad("garbage", "--input-file {d}/garbage.parquet", "--input-file|{d}/garbage.parquet|parquet"),
    Bad("columns", "--input-file {d}/columns.parquet", "--input-file|text_input|tok_input|input_tokens"),
    Bad("empty prompt", "--input-file {d}/hole.parquet", "--input-file|{d}/hole.parquet|row 1|empty"),
    Bad("nan prompt", "--input-file {d}/nan.pkl", "--input-file|{d}/nan.pkl|row 1|nan"),
    Bad("fraction", "--input-file {d}/fraction.pkl", "--input-file|{d}/fraction.pkl|row 1|7.5|integer"),
    Bad("below 0", "--input-file {d}/negative.parquet", "--input-file|row 1|-1|0 <= id"),
    Bad("foreign pickle", "--input-file {d}/foreign.pkl", "--input-file|{d}/foreign.pkl|mkdir"),
    Bad("a pointer to the data", "--input-file {d}/lfs.pkl", "--input-file|{d}/lfs.pkl|git lfs pull"),
    Bad("memory from a file", "--input-file {d}/dtype.pkl", "--input-file|{d}/dtype.pkl|damaged"),
    Bad("too few rows", "--max-samples 11", "--max-samples|11|10|{d}/good.parquet"),
    Bad("0 rows", "--max-samples 0", "--max-samples|0|below 1"),
    Bad("long name", f"--output-dir {{d}}/{'n' * 256}", "--output-dir|cannot look at|name too long"),
    Bad("no user.conf", "--user-conf {d}/absent.conf", "--user-conf|{d}/absent.conf|No such file"),
    Bad("no spaces", "--user-conf {d}/tight.conf", "--user-conf|{d}/tight.conf|line 1|target_qps=10|spaces"),
    Bad("unknown key", "--user-conf {d}/key.conf", "--user-conf|{d}/key.conf|line 3|target_qsp"),
    Bad("no number", "--user-conf {d}/word.conf", "--user-conf|{d}/word.conf|line 1|'fast'|number"),
    # With these three LoadGen would schedule for ever, log what is no JSON, and run for 0 s.
    Bad("nan in conf", "--user-conf {d}/nan.conf", "--user-conf|{d}/nan.conf|line 1|target_qps = nan"),
    Bad("0 in conf", "--user-conf {d}/zero.conf", "--user-conf|{d}/zero.conf|line 1|target_qps = 0"),
    Bad("below 0 in conf", "--user-conf {d}/minus.conf", "--user-conf|{d}/minus.conf|line 1|min_duration|-1"),
    Bad("conf scenario", "--user-conf {d}/scenario.conf", "--user-conf|line 1|'Sever'|Server|Offline"),
    # LoadGen would ask for one query a second.
    Bad("no rate", "--scenario server", "--target-qps|missing|gpt-oss-120b.Server.target_qps"),
    Bad(
        "another's rate",
        "--scenario server --user-conf {d}/rate.conf",
        "--target-qps|missing|gpt-oss-120b.Server.target_qps",
    ),
    # LoadGen would crash, or ask for rows that are not there.
    Bad("too many rows", "--user-conf {d}/count.conf", "--user-conf|_sample_count_override|11|1..10"),
    Bad(
        "audit rows",
        "--input-file {d}/gpqa.parquet --audit-config {d}/count07.config",
        "--audit-config|_sample_count_override|991|1..990",
    ),
    Bad("no test", "--audit-config {d}/no_test.config", "--audit-config|{d}/no_test.config|TEST07|TEST09"),
    Bad("two tests", "--audit-config {d}/both.config", "--audit-config|{d}/both.config|exactly one test"),
    Bad("rows of TEST07", "--audit-config {d}/test07.config", "--input-file|{d}/good.parquet|10|TEST07|990"),
    Bad("rows of TEST09", "--audit-config {d}/test09.config", "--input-file|{d}/good.parquet|10|TEST09|6396"),
    Bad(
        "part of TEST07",
        "--input-file {d}/gpqa.parquet --max-samples 10 --audit-config {d}/test07.config",
        "--input-file|{d}/gpqa.parquet|10 rows|TEST07|990",
    ),
    Bad(
        "data of TEST07",
        "--input-file {d}/aime.parquet --audit-config {d}/test07.config",
        "--input-file|{d}/aime.parquet|'aime25'|TEST07|gpqa",
    ),
    Bad(
        "TEST07 that nobody can grade",
        "--input-file {d}/bare990.parquet --audit-config {d}/test07.config",
        "--input-file|{d}/bare990.parquet|no column dataset|TEST07|--ungraded",
    ),
    Bad(
        "accuracy that nobody can grade",
        "--accuracy --input-file {d}/truthless.parquet",
        "--input-file|{d}/truthless.parquet|no column ground_truth|--accuracy|--ungraded",
    ),
    Bad("tests alone", "--accuracy --lcb-tests {d}/tests.jsonl", "--lcb-tests|--tokenizer"),
    Bad("no scoring", "--accuracy --ungraded --tokenizer {d}", "--ungraded|--tokenizer"),
    Bad(
        "no tokenizer.json",
        "--accuracy --input-file {d}/gpqa.parquet --tokenizer {d}",
        "--tokenizer|{d}|no file tokenizer.json",
    ),
    Bad("rows of built-in TEST09", "--compliance TEST09", "--input-file|{d}/good.parquet|10|TEST09|6396"),
    Bad("unknown test", "--compliance TEST06", "--compliance|TEST06|TEST07, TEST09"),
    Bad("accurate test", "--accuracy --compliance TEST09", "--accuracy|TEST09|performance"),
    Bad(
        "two sets of settings",
        "--compliance TEST07 --audit-config {d}/test07.config",
        "--audit-config|{d}/test07.config|TEST07|one of the two",
    ),
    Bad("accurate audit", "--accuracy --audit-config {d}/rate.conf", "--accuracy|{d}/rate.conf|performance"),
    Bad(
        "no audit.config", "--audit-config {d}/absent.config", "--audit-config|{d}/absent.config|No such file"
    ),
    Bad("audit key", "--audit-config {d}/key.conf", "--audit-config|{d}/key.conf|line 3|target_qsp"),
    Bad("no config", "--generation-config {d}/no.json", "--generation-config|{d}/no.json|No such file"),
    Bad("config key", "--generation-config {d}/key.json", "--generation-config|{d}/key.json|'temprature'"),
    Bad("top_p", "--generation-config {d}/top_p.json", "--generation-config|{d}/top_p.json|top_p|2|(0, 1]"),
    Bad("budget", "--generation-config {d}/budget.json", "--generation-config|max_new_tokens|0|below 1"),
    Bad("config word", "--generation-config {d}/word.json", "--generation-config|temperature|'hot'|number"),
    Bad("config list", "--generation-config {d}/list.json", "--generation-config|{d}/list.json|list|object"),
    Bad(
        "scenario Interactive",
        "--user-conf {d}/interactive.conf",
        "--user-conf|line 1|write gpt-oss-120b-interactive.Server.target_qps",
    ),
    Bad("audit mode", "--audit-config {d}/accuracy.config", "--audit-config|line 1|performance run, mode 2"),
    Bad("flag of the reference", "--mlperf-conf mlperf.conf", "--mlperf-conf|MLPerf reference|--user-conf"),
    Bad("no JSON", "--generation-config {d}/broken.json", "--generation-config|{d}/broken.json|JSON"),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write every file that a case names."""
    directory = tmp_path_factory.mktemp("files")
    for name, text in FILES.items():
        (directory / name).write_text(text, encoding="utf-8")
    fleet.write_prompts(directory / "good.parquet", [[3, 7, i] for i in range(10)])
    fleet.write_prompts(directory / "gpqa.parquet", [[3, 7, i] for i in range(990)])
    bare = pd.DataFrame({"tok_input": [[3, 7, i] for i in range(990)]})
    bare.to_parquet(directory / "bare990.parquet")
    bare.assign(dataset="gpqa_diamond").to_parquet(directory / "truthless.parquet")
    bare.assign(dataset="aime25", ground_truth="1").to_parquet(directory / "aime.parquet")
    fleet.write_prompts(directory / "hole.parquet", [[3, 7], []])
    fleet.write_prompts(directory / "negative.parquet", [[3, 7], [3, -1]])
    pd.DataFrame({"text_input": ["a"]}).to_parquet(directory / "columns.parquet")
    pd.DataFrame({"tok_input": [[3, 7], np.nan]}).to_pickle(directory / "nan.pkl")
    pd.DataFrame({"tok_input": [[3, 7], [3, 7.5]]}).to_pickle(directory / "fraction.pkl")
    (directory / "foreign.pkl").write_bytes(pickle.dumps(Intruder(directory / "intruded")))
    (directory / "dtype.pkl").write_bytes(pickle.dumps(POINTERS_FRAME))
    (directory / "folder.parquet").mkdir()
    return directory


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name.replace(" ", "-"))
def test_mistake_is_named_before_any_worker_is_called(files: Path, tmp_path: Path, bad: Bad) -> None:
    """A bad flag or file ends at once, exit code 2, with one line that names it, its value and its bound."""
    out = tmp_path / "out"
    good = f"--input-file {files}/good.parquet --workers {NOBODY} --ready-timeout-s 3"
    argv = [*good.split(), "--output-dir", str(out), *bad.flags.format(d=files).split()]
    ended = end_of(main, argv, tmp_path)
    assert (2, "") == (ended.code, ended.stdout), ended.stderr
    (line,) = ended.stderr.splitlines()
    assert line.startswith("coordinator: ")
    assert [] == [word for word in bad.says.format(d=files).split("|") if word not in line], line
    _check_doctor(argv, line, tmp_path)
    assert not out.exists()
    assert not (files / "intruded").exists()


def _check_doctor(argv: list[str], line: str, directory: Path) -> None:
    """Check that the doctor, which needs no worker for it, says what the run says, and fails."""
    checked = end_of(main, ["doctor", "--inputs-only", *argv], directory)
    if checked.code == 2:
        assert ("", f"{line}\n") == (checked.stdout, checked.stderr)
        return
    assert (1, "") == (checked.code, checked.stderr)
    failing = [row for row in checked.stdout.splitlines() if row.startswith("  FAIL  ")]
    assert 1 == len(failing)
    assert failing[0].endswith(line.removeprefix("coordinator: ")[:MAX_SEEN_LEN])


def test_missing_flags_are_named() -> None:
    """Without flags the two that every run needs are named, in one line."""
    command = [sys.executable, "-m", "coordinator"]
    done = completed_command(command)
    (line,) = done.stderr.splitlines()
    assert (2, "", True) == (done.returncode, done.stdout, line.startswith("coordinator: "))
    assert "--input-file" in line
    assert "--workers" in line


def test_a_word_that_is_no_command_is_named(tmp_path: Path) -> None:
    """A misspelt command is named with the one there is, before its flags are judged."""
    ended = end_of(main, ["docter", "--workers", NOBODY], tmp_path)
    line = "coordinator: 'docter' is not a command: the only command is doctor; a run takes flags only\n"
    assert (2, "", line) == ended
