"""The readers of LoadGen's logs, with logs written by hand."""

from collections import Counter
from pathlib import Path

import pytest

from sut.results.logs import DetailLog, read_accuracy, read_detail
from tests.sut.handmade_logs import detail_line, entries


def test_the_detail_log_is_read_line_by_line(tmp_path: Path) -> None:
    """The last value of a key counts, errors keep their order, and lines without the mark are skipped."""
    path = tmp_path / "mlperf_log_detail.txt"
    lines = [
        detail_line("a", 1),
        "some text\n",
        detail_line("e", "x", is_error=True),
        detail_line("a", [2]),
        "\n",
        detail_line("e", "y", is_error=True),
    ]
    path.write_text("".join(lines))
    assert read_detail(path) == DetailLog({"a": [2], "e": "y"}, ["e: x", "e: y"])
    path.write_text(":::MLLOG {torn")
    with pytest.raises(ValueError):
        read_detail(path)


def test_the_accuracy_log_is_counted(tmp_path: Path) -> None:
    """Entries per sample, tokens and bytes are counted; an empty log has none, a truncated one raises."""
    path = tmp_path / "mlperf_log_accuracy.json"
    path.write_text("[\n" + ",\n".join(entries(0, 1, 0)) + "\n]\n")
    # 3 + 2 + 3 tokens of 4 bytes.
    assert read_accuracy(path) == (Counter({0: 2, 1: 1}), 8, 32, True)
    path.write_text("[\n]\n")
    assert read_accuracy(path) == (Counter(), 0, 0, True)
    path.write_text("[\n" + entries(0)[0] + ",\n")
    assert read_accuracy(path) == (Counter({0: 1}), 3, 12, False)
    path.write_text("[\n" + entries(0)[0][:-9])
    with pytest.raises(ValueError):
        read_accuracy(path)


@pytest.mark.parametrize("value", ["1.0", '"1"', "true", "NaN", "[1]", "[" * 100_000, "1" * 5_000])
@pytest.mark.parametrize("key", ["qsl_idx", "token_count", "data"])
def test_an_entry_that_loadgen_does_not_write_is_an_error(tmp_path: Path, key: str, value: str) -> None:
    """Other types than LoadGen's are refused: Python takes 1.0 and true for the sample 1."""
    entry = {"qsl_idx": "1", "data": '"00000000"', "token_count": "1"} | {key: value}
    path = tmp_path / "mlperf_log_accuracy.json"
    path.write_text("[\n{" + ", ".join(f'"{name}": {text}' for name, text in entry.items()) + "}\n]\n")
    if (key, value) == ("data", '"1"'):
        assert read_accuracy(path).entries == {1: 1}
        return
    with pytest.raises(ValueError):
        read_accuracy(path)


def test_a_line_without_end_is_not_read_whole(tmp_path: Path) -> None:
    """A line that is longer than any entry is refused before it fills the memory."""
    path = tmp_path / "mlperf_log_accuracy.json"
    with path.open("wb") as file:
        file.truncate(1 << 32)
    with pytest.raises(ValueError, match="a line is longer than 16,777,216 characters"):
        read_accuracy(path)


@pytest.mark.parametrize("number", ["-nan", "nan", "inf", "-inf"])
def test_what_is_no_number_is_none(tmp_path: Path, number: str) -> None:
    """A rate over one Server query, which LoadGen prints as -nan, is read as None."""
    path = tmp_path / "mlperf_log_detail.txt"
    path.write_text(detail_line("rate", 12345).replace("12345", number) + detail_line("text", f" {number},"))
    assert DetailLog({"rate": None, "text": f" {number},"}, []) == read_detail(path)
