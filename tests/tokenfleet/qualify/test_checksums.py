"""Hashes of weights and data files against the user's table."""

import hashlib
from pathlib import Path

import pytest

from common.flags import FlagError
from tokenfleet.qualify.checksums import (
    NOTHING_EXPECTED,
    check_data_files,
    check_stop_ids,
    check_weights,
    read_expected,
)
from tokenfleet.qualify.qualification import Assessment

SHA = hashlib.sha256(b"data").hexdigest()
OTHER = "0" * 64
# The hash of all weight files is that of their lines in the format of sha256sum, by name.
SHARDS = f"{OTHER}  a.safetensors\n{SHA}  b.safetensors\n"
WHOLE = hashlib.sha256(SHARDS.encode()).hexdigest()


def test_both_formats_say_the_same(tmp_path: Path) -> None:
    """A table in the format of sha256sum and one in TOML give the same hashes, whatever their folders."""
    sums, toml = tmp_path / "sums.txt", tmp_path / "sums.toml"
    sums.write_text(f"# round v6.1\n\n{SHA} *data/acc.parquet\n{SHARDS}")
    toml.write_text(
        f'[files]\n"acc.parquet" = "{SHA.upper()}"\n"b.safetensors" = "{SHA}"\n"a.safetensors" = "{OTHER}"\n'
    )
    one, other = read_expected(sums), read_expected(toml)
    assert (one.files, one.weights) == (other.files, other.weights)
    assert (SHA, WHOLE, None) == (one.files["acc.parquet"], one.weights, one.stop_ids)


def test_the_last_line_of_checkpoint_hash_is_the_hash_of_the_weights(tmp_path: Path) -> None:
    """The output of checkpoint-hash is a table."""
    path = tmp_path / "sums.txt"
    path.write_text(f"{OTHER}  all weight files of /models/gpt oss\n")
    assert OTHER == read_expected(path).weights


@pytest.mark.parametrize(
    "name, content, line",
    [
        ("x.txt", "abc  file\n", "line 1 is not a SHA-256, two spaces and a name"),
        ("x.txt", f"{SHA}  a\n{OTHER}  b/a\n", "a has two different hashes"),
        (
            "x.txt",
            f"{SHA}  all weight files of /models/a\n{OTHER}  all weight files of /models/b\n",
            "has two different hashes of all weight files",
        ),
        ("x.toml", "[files", "is not TOML: "),
        ("x.toml", "file = 1", "unknown key 'file'"),
        ("x.toml", "files = 1", "files is not a table of hashes by file name"),
        ("x.toml", "[files]\na = 'abc'", "a: 'abc' is not a SHA-256 of 64 hexadecimal digits"),
        ("x.toml", "stop_ids = ['a']", "stop_ids is not a list of token ids"),
        ("x.txt", "\xff", "is not text in UTF-8"),
    ],
)
def test_a_table_of_another_format_is_refused(tmp_path: Path, name: str, content: str, line: str) -> None:
    """The line names the flag, the file and the entry."""
    path = tmp_path / name
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(FlagError) as refused:
        read_expected(path)
    assert str(refused.value).startswith(f"--expected {path}: {line}")


def test_a_data_file_is_compared_by_its_name(tmp_path: Path) -> None:
    """Equal passes, different fails, without an entry unknown; an entry without a file is listed."""
    for name, content in (("same", b"data"), ("changed", b"other"), ("new", b"data")):
        (tmp_path / name).write_bytes(content)
    expected = NOTHING_EXPECTED._replace(files={"same": SHA, "changed": SHA, "absent": SHA})
    found = list(check_data_files([tmp_path / name for name in ("same", "changed", "new")], expected))

    assert [
        ("data file same", Assessment.PASS),
        ("data file changed", Assessment.FAIL),
        ("data file new", Assessment.UNKNOWN),
        ("data file absent", Assessment.UNKNOWN),
    ] == [result[:2] for result in found]


def test_a_data_file_that_cannot_be_read_is_bad_input(tmp_path: Path) -> None:
    """The line names the file."""
    with pytest.raises(FlagError, match=f"--data-files {tmp_path / 'x'}: No such file"):
        list(check_data_files([tmp_path / "x"], NOTHING_EXPECTED))


@pytest.mark.parametrize(
    "reported, expected, assessment, seen",
    [
        ({"a:1": WHOLE, "b:2": WHOLE}, WHOLE, Assessment.PASS, f"SHA-256 {WHOLE} on 2 workers"),
        ({"a:1": WHOLE, "b:2": OTHER}, WHOLE, Assessment.FAIL, "1 of 2 workers differ, b:2 has 0000"),
        ({"a:1": WHOLE, "b:2": ""}, WHOLE, Assessment.UNKNOWN, "1 of 2 workers report no hash, first b:2"),
        ({"a:1": WHOLE}, "", Assessment.UNKNOWN, f"SHA-256 {WHOLE}: no hash of the weights in the table"),
    ],
)
def test_the_weights_of_every_worker_are_compared(
    reported: dict[str, str], expected: str, assessment: Assessment, seen: str
) -> None:
    """One worker with other weights fails the check; one without a hash leaves it unknown."""
    result = check_weights(reported, NOTHING_EXPECTED._replace(weights=expected))
    assert assessment is result.assessment
    assert result.seen.startswith(seen)


def test_stop_ids_are_the_benchmarks_unless_the_table_has_others() -> None:
    """The ids of every worker are compared in any order."""
    official, own = [200_002, 199_999, 200_012], NOTHING_EXPECTED._replace(stop_ids=(7,))
    assert Assessment.PASS is check_stop_ids({"a:1": official}, NOTHING_EXPECTED).assessment
    assert Assessment.FAIL is check_stop_ids({"a:1": official, "b:2": [7]}, NOTHING_EXPECTED).assessment
    assert Assessment.PASS is check_stop_ids({"a:1": [7]}, own).assessment
