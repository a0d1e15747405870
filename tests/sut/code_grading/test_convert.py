"""The public release becomes a file of tests: both its formats, its packed tests, and nothing that lies."""

import base64
import json
import os
import pickle
import zlib
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sut.results.code_grading.convert import main
from sut.results.code_grading.questions import QuestionFile, QuestionTest


def packed(value: object) -> str:
    """Pack private tests as the release does."""
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


def cases(*pairs: tuple[str, str]) -> str:
    """Tests as JSON, with the field that is not read."""
    return json.dumps(
        [{"input": given, "output": expected, "testtype": "stdin"} for given, expected in pairs]
    )


def row(question_id: str, private: str, metadata: str = "{}") -> dict[str, Any]:
    """One row of the release, with a column that is not read."""
    return {
        "question_title": "title",
        "question_id": question_id,
        "public_test_cases": cases(("1", "2")),
        "private_test_cases": private,
        "metadata": metadata,
    }


ROWS = [
    row("abc_1", packed(cases(("3", "4"), ("5\n\u00e9", "6")))),
    row("2849", cases(("7", "8")), '{"func_name": "next"}'),
]
EXPECTED = {
    "abc_1": (None, (("1", "2"), ("3", "4"), ("5\n\u00e9", "6"))),
    "2849": ("next", (("1", "2"), ("7", "8"))),
}


def read(path: Path) -> dict[str, tuple[str | None, tuple[QuestionTest, ...]]]:
    """Read every question of a file of tests."""
    with QuestionFile(path) as questions:
        return {name: questions.read(name)[:2] for name in questions.ids}


def write_json_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as the release's JSON lines."""
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return path


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_both_formats_of_the_release_are_converted(
    tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Public tests stand before private ones, packed or not; the function's name comes from the metadata."""
    release = tmp_path / f"test.{suffix}"
    if suffix == "jsonl":
        write_json_lines(release, ROWS)
    else:
        pd.DataFrame(ROWS).to_parquet(release)
    output = tmp_path / "tests.jsonl"
    assert 0 == main([str(release), "--output", str(output)])
    assert f"wrote {output}: 2 questions, 5 tests\n" == capsys.readouterr().out
    assert EXPECTED == read(output)


def test_several_files_become_one_and_an_existing_file_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A release in parts is one file of tests, which only --overwrite replaces."""
    parts = [write_json_lines(tmp_path / f"part{i}.jsonl", [each]) for i, each in enumerate(ROWS)]
    output = tmp_path / "tests.jsonl"
    command = [*map(str, parts), "--output", str(output)]
    assert 0 == main(command)
    assert EXPECTED == read(output)
    assert 2 == main(command)
    assert f"--output {output}: exists; --overwrite replaces it\n" == capsys.readouterr().err
    assert 0 == main([*command[1:], "--overwrite"])
    assert ["2849"] == list(read(output))


class Call:
    """Pickles as a call."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        """Have unpickling make a folder."""
        return os.mkdir, (str(self._path),)


BOMB = base64.b64encode(zlib.compress(bytes(1 << 20))).decode()


@pytest.mark.parametrize(
    "private",
    [
        packed([{"input": "1", "output": "1"}]),
        packed("{"),
        base64.b64encode(zlib.compress(pickle.dumps("[]"))[:-3]).decode(),
        base64.b64encode(pickle.dumps("[]")).decode(),
        base64.b64encode(zlib.compress(b"\x80\x04X\xff\xff\xff\x7f")).decode(),
        base64.b64encode(zlib.compress(b"\x80\x02Q.")).decode(),
        "not base64!",
        json.dumps([{"input": "1"}]),
        BOMB,
        None,
        7,
    ],
)
def test_a_damaged_row_is_named_and_nothing_is_written(
    tmp_path: Path, private: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line names file and row, and no half of a file of tests is left."""
    release = write_json_lines(tmp_path / "test.jsonl", [ROWS[0], row("2", private)])
    output = tmp_path / "tests.jsonl"
    assert 2 == main([str(release), "--output", str(output)])
    assert f"{release}: row 2 is not as the release has it\n" == capsys.readouterr().err
    assert [release] == list(tmp_path.iterdir())


def test_a_pickle_of_the_release_calls_nothing(tmp_path: Path) -> None:
    """A packed test that is a call when it is unpickled is refused, and not called."""
    release = write_json_lines(tmp_path / "test.jsonl", [row("1", packed(Call(tmp_path / "made")))])
    assert 2 == main([str(release), "--output", str(tmp_path / "tests.jsonl")])
    assert not (tmp_path / "made").exists()


def test_private_tests_are_unpacked_to_a_bounded_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row whose packed tests are longer than a line may be is refused."""
    monkeypatch.setattr("sut.results.code_grading.release_rows.MAX_LINE_BYTES", 100_000)
    long = cases(("1" * 100_000, "1"))
    release = write_json_lines(tmp_path / "test.jsonl", [row("1", packed(long))])
    assert 2 == main([str(release), "--output", str(tmp_path / "tests.jsonl")])
    assert f"{release}: row 1 is not as the release has it\n" == capsys.readouterr().err


@pytest.mark.parametrize(
    "name, content, reason",
    [
        ("test.parquet", b"PAR1", "is no parquet file"),
        ("test.jsonl", b"{\n", "row 1 is not as the release has it"),
        ("test.jsonl", b"[" * 100_000, "row 1 is not as the release has it"),
        ("absent.jsonl", None, "No such file or directory"),
        ("absent.parquet", None, "No such file or directory"),
    ],
)
def test_a_file_that_is_none_of_the_release_is_named(
    tmp_path: Path, name: str, content: bytes | None, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A damaged or absent file gives one line and exit code 2."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert 2 == main([str(tmp_path / name), "--output", str(tmp_path / "tests.jsonl")])
    assert f"{tmp_path / name}: {reason}\n" == capsys.readouterr().err


def test_a_question_that_two_files_have_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same part given twice is a mistake, not more tests."""
    release = str(write_json_lines(tmp_path / "test.jsonl", ROWS))
    assert 2 == main([release, release, "--output", str(tmp_path / "tests.jsonl")])
    assert capsys.readouterr().err.endswith("line 3: question abc_1 is there twice\n")
