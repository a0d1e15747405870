"""Bad input of `tokenfleet accuracy`: one line that names flag, file and entry; nothing is written."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sut.results.accuracy import log_entries
from sut.results.accuracy.__main__ import main
from sut.results.accuracy.log_entries import AnswerLog, LogError
from sut.results.accuracy.reference_data import ReferenceDataError, read_reference
from tests.sut.accuracy_files import encode, entry, final, write_case, write_log, write_reference

ROWS = [
    ("gpqa_diamond", "C", final("C")),
    ("gpqa_diamond", "B", final("B")),
    ("gpqa_diamond", "A", final("A")),
]
E0, E1, E2 = (entry(row, encode(answer)) for row, (_, _, answer) in enumerate(ROWS))


def log(*lines: str) -> Callable[[Path], None]:
    """Write another log."""
    return lambda directory: void(write_log(directory / "mlperf_log_accuracy.json", list(lines)))


def text(content: str) -> Callable[[Path], None]:
    """Write another text into the log."""
    return lambda directory: void((directory / "mlperf_log_accuracy.json").write_text(content))


def data(*rows: tuple[str, str]) -> Callable[[Path], None]:
    """Write other reference data."""
    return lambda directory: void(write_reference(directory / "acc.parquet", list(rows)))


def file(name: str, content: bytes) -> Callable[[Path], None]:
    """Write another file."""
    return lambda directory: void((directory / name).write_bytes(content))


def columns(**values: list[object]) -> Callable[[Path], None]:
    """Write reference data with other columns."""
    return lambda directory: pq.write_table(pa.table(values), directory / "acc.parquet")


def endless(directory: Path) -> None:
    """Write a log of 4 GiB whose first entry does not end; only its first 16 MiB may be read."""
    with (directory / "mlperf_log_accuracy.json").open("wb") as log_file:
        log_file.write(b"[")
        log_file.truncate(1 << 32)


def special_tokens_removed(directory: Path) -> None:
    """Leave a vocabulary of bytes alone: no final message would be found, and drafts would be graded."""
    path = directory / "tokenizer" / "tokenizer.json"
    content = json.loads(path.read_text())
    content["added_tokens"] = []
    content["model"]["vocab"] = {
        text: token for text, token in content["model"]["vocab"].items() if token < 256
    }
    path.write_text(json.dumps(content))


def void(_: object) -> None:
    """Return nothing."""


LOG = "--mlperf-log {d}/mlperf_log_accuracy.json: "
DATA = "--reference-data {d}/acc.parquet: "
TOKENIZER = "--tokenizer {d}/tokenizer: "
BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (log(E0, E2), LOG + "has no entry for 1 of 3 samples, first sample 1"),
    "doubled": (log(E0, E1, E1, E2), LOG + "entry 2: sample 1 has an entry before"),
    "foreign": (
        log(E0, E1, E2, entry(3, [1])),
        LOG + "entry 3: sample 3 is not one of the 3 rows of the reference data",
    ),
    "before the first": (
        log(E0, E1, entry(-1, [1])),
        LOG + "entry 2: sample -1 is not one of the 3 rows of the reference data",
    ),
    "cut in an entry": (text(f"[\n{E0},\n{E1[:60]}"), LOG + "entry 1 is truncated or no JSON object: "),
    "cut after an entry": (
        text(f"[\n{E0},\n{E1}\n"),
        LOG + "is truncated: the array is not closed after 2 entries",
    ),
    "cut after a comma": (text(f"[\n{E0},\n"), LOG + "is truncated: the array is not closed after 1 entries"),
    "a comma too many": (text(f"[\n{E0},\n]"), LOG + "entry 1 is truncated or no JSON object: "),
    "text behind": (text(f"[{E0},{E1},{E2}] []"), LOG + "has text after the end of the array of 3 entries"),
    "no array": (text(E0), LOG + 'is no JSON array: begins with \'{ "seq_id"'),
    "no array behind spaces": (
        text(f" \n 7{'x' * 50}"),
        LOG + f"is no JSON array: begins with '7{'x' * 29}'",
    ),
    "empty": (text(""), LOG + "is empty"),
    "no entries": (text("[\n]\n"), LOG + "has no entry for 3 of 3 samples, first sample 0"),
    "a number of too many digits": (
        text(f'[{{"seq_id": {"1" * 5000}}}]'),
        LOG + "entry 0 has a number of too many digits",
    ),
    "no object": (log(E0, "7"), LOG + "entry 1 is no JSON object"),
    "no seq_id": (log('{"qsl_idx": 0, "data": ""}'), LOG + "entry 0 has no seq_id"),
    "no qsl_idx": (log('{"seq_id": 0, "data": ""}'), LOG + "entry 0 has no qsl_idx"),
    "a truth value as sample": (
        log('{"seq_id": 0, "qsl_idx": true, "data": ""}'),
        LOG + "entry 0: qsl_idx is no integer",
    ),
    "a fraction as sample": (
        log('{"seq_id": 0, "qsl_idx": 1.0, "data": ""}'),
        LOG + "entry 0: qsl_idx is no integer",
    ),
    "a number as data": (
        log('{"seq_id": 0, "qsl_idx": 0, "data": 7}'),
        LOG + "entry 0: data is no hexadecimal text of whole int32 tokens",
    ),
    "nested too deeply": (text("[" * 100_000), LOG + "entry 0 is nested too deeply"),
    "no UTF-8": (
        file("mlperf_log_accuracy.json", b"[\xff"),
        LOG + "is no UTF-8 text: invalid start byte",
    ),
    "an entry without end": (endless, LOG + "entry 0 is no JSON object: Expecting value"),
    "no data": (log('{"seq_id": 0, "qsl_idx": 0}'), LOG + "entry 0 has no data"),
    "half a token": (
        log('{"seq_id": 0, "qsl_idx": 0, "data": "0011"}'),
        LOG + "entry 0: data is no hexadecimal text of whole int32 tokens",
    ),
    "a negative token": (
        log('{"seq_id": 0, "qsl_idx": 0, "data": "FEFFFFFF"}'),
        LOG + "entry 0: token -2 is negative",
    ),
    "unknown data set": (
        data(("gpqa_diamond", "C"), ("gpqa", "C"), ("gpqa_diamond", "C")),
        DATA + "'gpqa' in the column dataset is none of aime25, gpqa_diamond, livecodebench_v6",
    ),
    "a pickle": (
        file("acc.parquet", b"\x80\x04."),
        DATA + "is no parquet file; the evaluation reads no other format",
    ),
    "damaged data": (file("acc.parquet", b"PAR1 and more"), DATA + "is no readable parquet file: "),
    "no truth": (columns(dataset=["aime25"]), DATA + "has no column ground_truth"),
    "two columns of one name": (
        lambda directory: pq.write_table(
            pa.table([["aime25"], ["aime25"], ["1"]], names=["dataset", "dataset", "ground_truth"]),
            directory / "acc.parquet",
        ),
        DATA + "has 2 columns dataset, not one",
    ),
    "no rows": (columns(dataset=[], ground_truth=[]), DATA + "has no rows"),
    "an empty name": (
        columns(dataset=["aime25", ""], ground_truth=["1", "2"]),
        DATA + "row 1 has no name in the column dataset",
    ),
    "a number as name": (
        columns(dataset=[25], ground_truth=["1"]),
        DATA + "row 0 has no name in the column dataset",
    ),
    "no name": (
        columns(dataset=[None], ground_truth=["1"]),
        DATA + "row 0 has no name in the column dataset",
    ),
    "a list as truth": (
        columns(dataset=["aime25"], ground_truth=[["1"]]),
        DATA + "row 0: ground_truth is neither text nor a number",
    ),
    "no tests": (
        data(("gpqa_diamond", "C"), ("livecodebench_v6", "q"), ("gpqa_diamond", "A")),
        "--lcb-tests: is missing: the data has rows of livecodebench_v6",
    ),
    "no tokenizer": (
        lambda directory: (directory / "tokenizer" / "tokenizer.json").unlink(),
        TOKENIZER + "tokenizer.json: No such file or directory",
    ),
    "a damaged tokenizer": (file("tokenizer/tokenizer.json", b"{}"), TOKENIZER + "tokenizer.json: "),
    "a tokenizer of another model": (
        special_tokens_removed,
        TOKENIZER + "tokenizer.json: token 200005 is not <|channel|>: it is not the model's tokenizer",
    ),
    "spaces cleaned up": (
        file("tokenizer/tokenizer_config.json", b'{"clean_up_tokenization_spaces": true}'),
        TOKENIZER + "tokenizer_config.json sets clean_up_tokenization_spaces",
    ),
    "other data than the run's": (
        file("run.json", b'{"dataset": {"sha256": "00"}}'),
        DATA + "is not the data of the run: run.json beside the log names another SHA-256",
    ),
    "a damaged record of the run": (
        file("run.json", b'{"dataset": {"sha256": "00"'),
        LOG + "run.json beside it is not JSON: ",
    ),
    "a record that is a list": (
        file("run.json", b"[]"),
        LOG + "run.json beside it holds a list, not an object",
    ),
    "a record that is a directory": (
        lambda directory: (directory / "run.json").mkdir(),
        LOG + "run.json beside it cannot be read: Is a directory",
    ),
    "a hash that is no text": (
        file("run.json", b'{"dataset": {"sha256": 0}}'),
        DATA + "is not the data of the run: run.json beside the log names another SHA-256",
    ),
    "an earlier report": (
        file("accuracy.txt", b""),
        "--output-dir {d}/accuracy.txt: exists; --overwrite replaces it",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """Exit code 2 and one line; no report is written."""
    flags = write_case(tmp_path, ROWS)
    damage, expected = BAD[name]
    damage(tmp_path)
    found = set(tmp_path.iterdir())
    assert main(flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("accuracy: " + expected.replace("{d}", str(tmp_path))), line
    assert found == set(tmp_path.iterdir())


def test_the_log_may_be_any_json_array(tmp_path: Path) -> None:
    """An array without line ends, with other spaces and more keys, is read as LoadGen's own is."""
    flags = write_case(tmp_path, ROWS)
    entries = [json.loads(line) | {"token_data": "00", "more": [{"]": "}"}]} for line in (E2, E0, E1)]
    for form in (
        json.dumps(entries),
        json.dumps(entries, indent=3),
        json.dumps(entries, separators=(",", ":")),
    ):
        (tmp_path / "mlperf_log_accuracy.json").write_text(f"\n {form} \n")
        assert main([*flags, "--overwrite"]) == 0
    assert (tmp_path / "accuracy.txt").read_text().endswith("'exact_match': 100.000\n")


def test_a_rejected_log_and_a_part_leave_no_file_for_the_checker(tmp_path: Path) -> None:
    """They are scored into accuracy.json only, and an earlier accuracy.txt is removed."""
    flags = [*write_case(tmp_path, ROWS), "--overwrite"]
    (tmp_path / "accuracy.txt").write_text("'exact_match': 99.000\n")
    rejected = tmp_path / "rejected_mlperf_log_accuracy.json"
    (tmp_path / "mlperf_log_accuracy.json").rename(rejected)
    assert main([*flags, f"--mlperf-log={rejected}"]) == 0
    write_log(rejected, [E0, E1])
    assert main([*flags, f"--mlperf-log={rejected}", "--max-samples=2"]) == 0
    assert not (tmp_path / "accuracy.txt").exists()
    assert json.loads((tmp_path / "accuracy.json").read_text())["num_samples"] == 2


def test_a_log_that_was_changed_after_its_run_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """run.json beside the log has its SHA-256: another log gets no score, the run's own one does."""
    flags = write_case(tmp_path, ROWS)
    log_path = tmp_path / "mlperf_log_accuracy.json"
    hashes = {"mlperf_log_accuracy.json": hashlib.sha256(log_path.read_bytes()).hexdigest()}
    (tmp_path / "run.json").write_text(json.dumps({"run_id": "r", "files_sha256": hashes}))
    own = log_path.read_text()
    log_path.write_text(own.replace('"seq_id" : 0', '"seq_id" : 7'))
    assert 2 == main(flags)
    line = capsys.readouterr().err
    assert "--mlperf-log" in line
    assert "is not the log of the run: run.json beside it names another SHA-256" in line
    assert not (tmp_path / "accuracy.json").exists()
    log_path.write_text(own)
    assert 0 == main(flags)


def test_a_log_that_changes_between_two_readings_is_refused(tmp_path: Path) -> None:
    """The SHA-256 of the report is that of the log which was checked; tokens of 0 are tokens."""
    path = write_log(tmp_path / "log.json", [entry(0, [0, 1])])
    answers = AnswerLog(path)
    assert [[0, 1]] == [answer.token_ids.tolist() for answer in answers]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == answers.sha256
    assert 1 == len(list(answers))
    write_log(path, [entry(0, [0, 2])])
    with pytest.raises(LogError, match="changed while it was read"):
        list(answers)


@pytest.mark.parametrize("chunk_bytes", [1, 7, 1 << 20])
def test_a_log_is_the_same_in_chunks_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int
) -> None:
    """A chunk may end within an entry, a number or a character of two bytes."""
    monkeypatch.setattr(log_entries, "_CHUNK_BYTES", chunk_bytes)
    lines = [entry(row, [row, 256 * row]).replace("{", '{ "note" : "\u00fc",', 1) for row in range(20)]
    answers = AnswerLog(write_log(tmp_path / "log.json", lines))
    found = [(one.entry, one.sample_index, one.token_ids.tolist()) for one in answers]
    assert [(row, row, [row, 256 * row]) for row in range(20)] == found
    assert hashlib.sha256((tmp_path / "log.json").read_bytes()).hexdigest() == answers.sha256


def test_a_log_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """By what the system says."""
    with pytest.raises(LogError, match="cannot be read: Is a directory"):
        list(AnswerLog(tmp_path))


def test_names_of_data_sets_are_read_in_any_case(tmp_path: Path) -> None:
    """And only as many rows as are asked for."""
    path = write_reference(
        tmp_path / "acc.parquet", [("GPQA_Diamond", "C"), ("AIME25", "7"), ("aime25", "8")]
    )
    found = read_reference(path)
    assert (["gpqa_diamond", "aime25", "aime25"], ["C", "7", "8"]) == (found.names, found.truths)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == found.sha256
    assert ["gpqa_diamond"] == read_reference(path, 1).names
    with pytest.raises(ReferenceDataError, match="cannot be read: No such file or directory"):
        read_reference(tmp_path / "absent.parquet")
