"""SHA-256 of weights and data files, compared with a table that the user gives.

The table is a file in the format of sha256sum, which `tokenfleet checkpoint-hash` also prints, or TOML:

    stop_ids = [199999, 200002, 200012]
    weights_sha256 = "the hash of all weight files, the last line of checkpoint-hash"
    [files]
    "acc_eval_ref.parquet" = "its hash"
    "model-00001-of-00015.safetensors" = "its hash"
"""

import hashlib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from common.bounded_file import read_bounded
from common.flags import FlagError
from sut.benchmark import BENCHMARK
from tokenfleet.qualify.qualification import Assessment, CheckResult
from worker.engines.model.weights_sha256 import COMMAND, FileSum, weights_sha256

EXPECTED_FLAG = "--expected"
DATA_FLAG = "--data-files"
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".gguf")
_SUM_LINE = re.compile(r"\\?([0-9a-fA-F]{64}) [ *](.+)")
_ALL_WEIGHTS = "all weight files of "
_SHA256 = re.compile("[0-9a-f]{64}")


class ExpectedSums(NamedTuple):
    """What the user's table says."""

    source: str
    """The table's path."""
    files: dict[str, str]
    """SHA-256 by the file's name without its directory."""
    weights: str
    """SHA-256 of all weight files as checkpoint-hash computes it; empty: not in the table."""
    stop_ids: tuple[int, ...] | None
    """Token ids that end an answer; None: not in the table."""


NOTHING_EXPECTED = ExpectedSums("", {}, "", None)


def read_expected(path: Path) -> ExpectedSums:
    """Read the table: TOML if the name ends in .toml, else the format of sha256sum.

    Raises:
        FlagError: Names the file and the entry that is not one of the format.
    """
    try:
        text = read_bounded(path).decode()
        expected = _read_toml(path, text) if path.suffix == ".toml" else _read_sums(path, text)
    except OSError as error:
        raise FlagError(EXPECTED_FLAG, str(error.strerror), path) from error
    except UnicodeDecodeError as error:
        raise FlagError(EXPECTED_FLAG, "is not text in UTF-8", path) from error
    shards = {name: sha for name, sha in expected.files.items() if name.endswith(WEIGHT_SUFFIXES)}
    return expected._replace(weights=expected.weights or _hash_of(shards))


def _hash_of(shards: Mapping[str, str]) -> str:
    """Return the hash of all weight files from their own hashes; empty without any."""
    sums = {name: FileSum(size=0, mtime_ns=0, sha256=sha) for name, sha in shards.items()}
    return weights_sha256(sums) if sums else ""


def _read_sums(path: Path, text: str) -> ExpectedSums:
    files: dict[str, str] = {}
    weights = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        found = _SUM_LINE.fullmatch(line.rstrip())
        if found is None:
            raise FlagError(EXPECTED_FLAG, f"line {number} is not a SHA-256, two spaces and a name", path)
        sha, name = found[1].lower(), found[2]
        if name.startswith(_ALL_WEIGHTS):
            if weights not in ("", sha):
                raise FlagError(EXPECTED_FLAG, "has two different hashes of all weight files", path)
            weights = sha
        else:
            _add(path, files, name, sha)
    return ExpectedSums(str(path), files, weights, None)


def _add(path: Path, files: dict[str, str], name: str, sha: str) -> None:
    base = Path(name).name
    if files.setdefault(base, sha) != sha:
        raise FlagError(EXPECTED_FLAG, f"{base} has two different hashes", path)


def _read_toml(path: Path, text: str) -> ExpectedSums:
    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise FlagError(EXPECTED_FLAG, f"is not TOML: {error}", path) from error
    if unknown := sorted(table.keys() - {"files", "weights_sha256", "stop_ids"}):
        raise FlagError(EXPECTED_FLAG, f"unknown key {unknown[0]!r}", path)
    listed, ids = table.get("files", {}), table.get("stop_ids")
    if not isinstance(listed, dict):
        raise FlagError(EXPECTED_FLAG, "files is not a table of hashes by file name", path)
    if ids is not None and not (isinstance(ids, list) and all(type(one) is int for one in ids)):
        raise FlagError(EXPECTED_FLAG, "stop_ids is not a list of token ids", path)
    files: dict[str, str] = {}
    for name, sha in listed.items():
        _add(path, files, name, _checked(path, name, sha))
    whole = table.get("weights_sha256")
    weights = "" if whole is None else _checked(path, "weights_sha256", whole)
    return ExpectedSums(str(path), files, weights, None if ids is None else tuple(ids))


def _checked(path: Path, name: str, sha: object) -> str:
    text = sha.lower() if isinstance(sha, str) else ""
    if not _SHA256.fullmatch(text):
        raise FlagError(EXPECTED_FLAG, f"{name}: {sha!r} is not a SHA-256 of 64 hexadecimal digits", path)
    return text


def check_data_files(files: Sequence[Path], expected: ExpectedSums) -> Iterator[CheckResult]:
    """Hash the data files and compare them; an entry of the table without its file is listed.

    Raises:
        FlagError: A file cannot be read.
    """
    for path in files:
        sha, wanted = _sha256_of(path), expected.files.get(path.name)
        if wanted is None:
            advice = f"add `{sha}  {path.name}` to the table if that file is right"
            yield CheckResult(_data(path.name), Assessment.UNKNOWN, f"{sha}: no hash in the table", advice)
        else:
            yield CheckResult(_data(path.name), *_compared(sha, wanted), advice=_advice(sha, wanted))
    given = {path.name for path in files}
    for name in expected.files:
        if name not in given and not name.endswith(WEIGHT_SUFFIXES):
            yield CheckResult(_data(name), Assessment.UNKNOWN, f"not checked: {DATA_FLAG} does not name it")


def _data(name: str) -> str:
    return f"data file {name}"


def _advice(sha: str, wanted: str) -> str:
    return "" if sha == wanted else "download the file again"


def _compared(sha: str, wanted: str) -> tuple[Assessment, str]:
    if sha == wanted:
        return Assessment.PASS, f"SHA-256 {sha} as in the table"
    return Assessment.FAIL, f"SHA-256 {sha}, in the table {wanted}"


def _sha256_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FlagError(DATA_FLAG, str(error.strerror), path) from error


def check_weights(reported: Mapping[str, str], expected: ExpectedSums) -> CheckResult:
    """Compare the weights of all workers.

    Args:
        reported: SHA-256 of all weight files by worker; empty: the worker does not know it.
        expected: The user's table.
    """
    without = [address for address, sha in reported.items() if not sha]
    advice = f"run `{COMMAND} --model MODEL` on the node, then start the worker again"
    if without:
        seen = f"{len(without)} of {len(reported)} workers report no hash, first {without[0]}"
        return CheckResult("weights", Assessment.UNKNOWN, seen, advice)
    if not expected.weights:
        seen = f"SHA-256 {', '.join(sorted(set(reported.values())))}: no hash of the weights in the table"
        return CheckResult("weights", Assessment.UNKNOWN, seen, f"give {EXPECTED_FLAG} with the weight files")
    wrong = [address for address, sha in reported.items() if sha != expected.weights]
    if wrong:
        seen = f"{wrong[0]} has {reported[wrong[0]]}, in the table {expected.weights}"
        seen = f"{len(wrong)} of {len(reported)} workers differ, {seen}"
        return CheckResult("weights", Assessment.FAIL, seen, "download the weights again on that node")
    return CheckResult("weights", Assessment.PASS, f"SHA-256 {expected.weights} on {len(reported)} workers")


def check_stop_ids(reported: Mapping[str, Sequence[int]], expected: ExpectedSums) -> CheckResult:
    """Compare the stop ids of all workers with those in the table, else with the benchmark's."""
    ids = expected.stop_ids
    source = "in the table" if ids is not None else f"those of {BENCHMARK.name}"
    wanted = sorted(ids if ids is not None else (stop.token_id for stop in BENCHMARK.stop_ids))
    wrong = [address for address, found in reported.items() if sorted(found) != wanted]
    if wrong:
        found = sorted(reported[wrong[0]])
        seen = f"{len(wrong)} of {len(reported)} workers differ, {wrong[0]} has {found}, {source} {wanted}"
        return CheckResult("stop ids", Assessment.FAIL, seen, "use the model's own generation_config.json")
    return CheckResult("stop ids", Assessment.PASS, f"{wanted} on {len(reported)} workers, as {source}")
