"""The whole command: what is in the tree, and when nothing is written."""

import json
import os
from pathlib import Path

import pytest

from coordinator.config import build_parser
from sut.log_files import ACCURACY, DETAIL, SUMMARY
from sut.results.submission import tree as tree_module
from sut.results.submission.submission_command import main
from sut.results.submission.system_description import NETWORK_FIELDS, OTHER_FIELDS, REQUIRED_VALUES
from tests.sut.submission.small_runs import (
    GIVEN,
    MEAN_LEN,
    change_record,
    git,
    head_of,
    read_record,
    set_commit,
    set_logged,
    sha256,
)

LOGS = {SUMMARY, DETAIL}
CALIBRATION = "Nothing was calibrated."


def flags(results: Path, repository: Path, *more: str, given: dict[str, str] | None = None) -> list[str]:
    """Compose the flags of a rehearsal."""
    calibration = results.parent / "calibration.txt"
    calibration.write_text(CALIBRATION)
    words = ["--results", str(results), "--output", str(results.parent / "tree")]
    words += ["--submitter", "Org", "--system", "small", "--source", str(repository)]
    words += ["--calibration", str(calibration), "--rehearsal", *more]
    for name, value in (GIVEN if given is None else given).items():
        words += ["--set", f"{name}={value}"]
    return words


def files_of(directory: Path) -> set[str]:
    """List the files below a directory."""
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def left_in(directory: Path) -> set[str]:
    """List what stands beside the runs, hidden or not."""
    return {path.name for path in directory.iterdir()} - {"results", "calibration.txt"}


@pytest.fixture
def tree(results: Path, repository: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """Lay out the tree of the runs."""
    assert 0 == main(flags(results, repository)), capsys.readouterr().err
    return results.parent / "tree"


def test_every_file_of_the_layout_is_there(tree: Path, repository: Path) -> None:
    """The tree has the files that the official checker reads, and the source of the commit that ran."""
    run_1 = {f"performance/run_1/{name}" for name in LOGS}
    scenario = {"README.md", "measurements.json", "user.conf", *run_1}
    scenario |= {f"accuracy/{name}" for name in (*LOGS, ACCURACY, "accuracy.txt")}
    for test, verify in (("TEST07", "verify_accuracy.txt"), ("TEST09", "verify_output_len.txt")):
        parts = {verify, f"accuracy/{ACCURACY}", "accuracy/accuracy.txt", *run_1}
        scenario |= {f"{test}/{part}" for part in parts}
    expected = {"systems/small.json", "documentation/calibration.md", "src/program.py"}
    for name in ("Offline", "Server"):
        expected |= {f"results/small/gpt-oss-120b/{name}/{part}" for part in scenario}
    assert {f"closed/Org/{name}" for name in expected} == files_of(tree)
    assert (repository / "program.py").read_text() == (tree / "closed/Org/src/program.py").read_text()
    assert {"tree", "tree-originals"} == left_in(tree.parent)


def test_logs_are_those_of_the_runs(tree: Path, results: Path) -> None:
    """Logs and user.conf are copied whole; accuracy logs are truncated, hashed and kept outside the tree."""
    folder = tree / "closed/Org/results/small/gpt-oss-120b/Server"
    for name in LOGS:
        assert sha256(results / "server/performance" / name) == sha256(folder / "performance/run_1" / name)
        assert sha256(results / "server/TEST09" / name) == sha256(folder / "TEST09/performance/run_1" / name)
        assert sha256(results / "server/accuracy" / name) == sha256(folder / "accuracy" / name)
    assert sha256(results / "server/performance/user.conf") == sha256(folder / "user.conf")
    originals = tree.with_name("tree-originals") / folder.relative_to(tree)
    for kind, part in (
        ("accuracy", "accuracy"),
        ("TEST07", "TEST07/accuracy"),
        ("TEST09", "TEST09/accuracy"),
    ):
        whole = results / "server" / kind / ACCURACY
        assert sha256(whole) == sha256(originals / part / ACCURACY)
        truncated = (folder / part / ACCURACY).read_bytes()
        # Beginning and end of 4 KiB each, and the official mark of what is left out.
        assert len(truncated) == 4096 + len("\n\n...\n\n") + 4096 < 10 * 1024
        assert whole.read_bytes().startswith(truncated[:4096])
        assert whole.read_bytes().endswith(truncated[-4096:])
        assert f"hash={sha256(whole)}" == (folder / part / "accuracy.txt").read_text().splitlines()[-1]
    assert "'exact_match': 83.500" in (folder / "accuracy/accuracy.txt").read_text().splitlines()
    assert "'exact_match'" not in (folder / "TEST07/accuracy/accuracy.txt").read_text()
    assert str(MEAN_LEN) not in (folder / "TEST09/verify_output_len.txt").read_text()


def test_every_required_field_is_filled(tree: Path) -> None:
    """35 fields of the system and 5 of the measurements have values, from flags or from the runs."""
    system = json.loads((tree / "closed/Org/systems/small.json").read_text())
    assert {*REQUIRED_VALUES, *OTHER_FIELDS} == set(system)
    assert 35 == len(system)
    assert all(system.values())
    known = {"division": "closed", "submitter": "Org", "system_name": "small", "system_type": "datacenter"}
    known |= {"number_of_nodes": "1", "accelerators_per_node": "0", "framework": "counting 1"}
    known |= {"sw_notes": "Rehearsal, not a submission."}
    given = {name: value for name, value in GIVEN.items() if name in system}
    assert known | given == {name: system[name] for name in (*known, *given)}
    folder = tree / "closed/Org/results/small/gpt-oss-120b/Offline"
    measured = json.loads((folder / "measurements.json").read_text())
    assert ("int32", "no", "none", "none") == (
        measured["input_data_types"],
        measured["retraining"],
        measured["weight_data_types"],
        measured["weight_transformations"],
    )
    assert measured["starting_weights_filename"].startswith("counting ")
    assert CALIBRATION in (tree / "closed/Org/documentation/calibration.md").read_text()


def test_the_readme_has_the_commands_of_every_run(tree: Path, results: Path) -> None:
    """The command of a run, read by the coordinator's own parser, gives the flags of run.json."""
    lines = (tree / "closed/Org/results/small/gpt-oss-120b/Server/README.md").read_text().splitlines()
    commands = [line.split() for line in lines if line.startswith("tokenfleet run")]
    assert 4 == len(commands)
    kinds = ("performance", "accuracy", "TEST07", "TEST09")
    for command, kind in zip(commands, kinds, strict=True):
        parsed = vars(build_parser().parse_args(command[2:]))
        config = read_record(results / "server" / kind)["config"]
        same = {name: value for name, value in config.items() if name in parsed}
        assert len(same) > 20
        assert json.loads(json.dumps({name: parsed[name] for name in same}, default=str)) == same
    directory = read_record(results / "server/TEST09")["directory"]
    assert f"tokenfleet compliance {directory}" in lines
    assert any(line.startswith("tokenfleet worker --engine counting") for line in lines)
    assert any(line.startswith("Rehearsal, not a submission") for line in lines)


def test_the_network_division_has_its_folder_and_fields(results: Path, repository: Path) -> None:
    """Runs behind a network are laid out below network/, with is_network and the network's fields."""
    for scenario in ("offline", "server"):
        for run_dir in (results / scenario).iterdir():
            set_logged(run_dir, sut_name="Network SUT: a, b")
    given = GIVEN | {name: "given" for name in NETWORK_FIELDS if name != "is_network"}
    assert 0 == main(flags(results, repository, "--division", "network", given=given))
    system = json.loads((results.parent / "tree/network/Org/systems/small.json").read_text())
    assert ("network", "true", "given") == tuple(
        system[name] for name in ("division", "is_network", "network_rate")
    )
    assert (results.parent / "tree/network/Org/results/small/gpt-oss-120b/Server/README.md").exists()


def test_runs_that_are_no_submission_are_not_laid_out(
    made_runs: Path, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without --rehearsal the engine is a fault, one line each; exit code 2, and nothing is written."""
    (tmp_path / "results").symlink_to(made_runs)
    words = [word for word in flags(tmp_path / "results", repository) if word != "--rehearsal"]
    assert 2 == main(words)
    lines = capsys.readouterr().err.splitlines()
    assert 8 == sum("fault:" in line and "engine is counting, not vllm" in line for line in lines)
    assert "tokenfleet submission: nothing was written: 12 faults, 0 things missing" == lines[-1]
    assert set() == left_in(tmp_path)


def test_an_invalid_run_is_laid_out_in_no_way(
    results: Path, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither --rehearsal nor --draft nor the open division accepts an INVALID run."""
    change_record(results / "offline/performance", lambda record: record["verdict"].update(outcome="INVALID"))
    for more in (["--draft"], ["--division", "open"]):
        assert 2 == main(flags(results, repository, *more))
        assert "offline/performance: the run is INVALID, not VALID" in capsys.readouterr().err
    assert set() == left_in(results.parent)


def test_what_is_missing_is_listed_at_once(
    results: Path, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each field that nobody gave is a line; a draft is laid out with these fields empty."""
    given = {name: value for name, value in GIVEN.items() if name not in ("status", "cooling")}
    assert 2 == main(flags(results, repository, given=given))
    lines = capsys.readouterr().err.splitlines()
    missing = [line.rpartition("missing: ")[2] for line in lines if " missing: " in line]
    assert ["--set status=...", "--set cooling=..."] == missing
    assert "nothing was written: 0 faults, 2 things missing" in lines[-1]
    assert set() == left_in(results.parent)
    assert 0 == main(flags(results, repository, "--draft", given=given))
    system = json.loads((results.parent / "tree/closed/Org/systems/small.json").read_text())
    assert {"status", "cooling"} == {name for name, value in system.items() if not value}


@pytest.mark.parametrize("name", ["tree", "tree-originals"])
def test_a_tree_that_exists_is_never_changed(
    results: Path, repository: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """One line, exit code 2."""
    (results.parent / name).mkdir()
    assert 2 == main(flags(results, repository))
    place = results.parent / name
    line = f"tokenfleet submission: --output {place}: exists: move it away, or name another\n"
    assert line == capsys.readouterr().err
    assert {name} == left_in(results.parent)
    assert [] == os.listdir(place)


@pytest.mark.parametrize(
    ("commit", "reason"),
    [
        ("", "--commit: missing: a run from an installed package"),
        ("HEAD-dirty", "files differed from it"),
        ("0" * 40, "git cat-file"),
        ("other", "--commit: 'other' is not 40 hexadecimal digits"),
    ],
)
def test_another_revision_is_refused(
    results: Path, repository: Path, capsys: pytest.CaptureFixture[str], commit: str, reason: str
) -> None:
    """Source that is not known, was changed, or is not in the repository is one line, exit code 2."""
    for scenario in ("offline", "server"):
        for run_dir in (results / scenario).iterdir():
            set_commit(run_dir, commit.replace("HEAD", head_of(repository)))
    assert 2 == main(flags(results, repository))
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "rehearsal: accepted" not in line]
    assert reason in line
    assert set() == left_in(results.parent)


def test_runs_of_a_container_have_the_commit_that_the_user_names(results: Path, repository: Path) -> None:
    """--commit stands for runs that name none, and for no other."""
    for scenario in ("offline", "server"):
        for run_dir in (results / scenario).iterdir():
            set_commit(run_dir, "")
    assert 0 == main(flags(results, repository, "--commit", head_of(repository)))
    assert (results.parent / "tree/closed/Org/src/program.py").exists()


def test_an_older_commit_is_the_source_that_ran(results: Path, repository: Path) -> None:
    """The snapshot is of the commit of the runs, not of the work tree as it is now."""
    (repository / "program.py").write_text("changed\n")
    try:
        assert 0 == main(flags(results, repository))
    finally:
        git(repository, "checkout", "-q", "program.py")
    assert "print()\n" == (results.parent / "tree/closed/Org/src/program.py").read_text()


def write_checker(clone: Path, code: int) -> Path:
    """Write a clone whose checker names its flags."""
    package = clone / "tools/submission/submission_checker"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "main.py").write_text(
        "import os, sys\n"
        "value = dict(zip(sys.argv[1::2], sys.argv[2::2]))\n"
        "print('[now main.py:1 INFO] progress')\n"
        "print('[now main.py:2 ERROR]', value['--version'], value['--submitter'],\n"
        "      sorted(os.listdir(value['--input'])), sys.argv[-1])\n"
        "print('[now main.py:3 INFO] SUMMARY: the end')\n"
        f"sys.exit({code})\n"
    )
    return clone


@pytest.mark.parametrize("code", [0, 1])
def test_the_official_checkers_words_are_shown(
    results: Path, repository: Path, capsys: pytest.CaptureFixture[str], code: int
) -> None:
    """It runs twice over the tree; its lines but those of progress are shown; its refusal is exit code 1."""
    clone = write_checker(results.parent / "clone", code)
    assert code == main(flags(results, repository, "--official-checker", str(clone)))
    lines = capsys.readouterr().out.splitlines()
    assert f"== submission_checker: exit code {code} ==" in lines
    assert f"== submission_checker --submission-exceptions: exit code {code} ==" in lines
    told = [line for line in lines if "main.py:2" in line]
    assert 2 == len(told)
    assert all("v6.1 Org ['closed']" in line for line in told)
    assert told[1].endswith("--submission-exceptions")
    assert 2 == sum("SUMMARY: the end" in line for line in lines)
    assert not any("progress" in line for line in lines)


BAD_FLAGS = {
    ("--official-checker", "/nowhere"): "--official-checker /nowhere: has no tools/submission",
    ("--set", "cooling"): "--set: 'cooling' is not KEY=VALUE",
    ("--set", "colour=red"): "--set: 'colour' is no field of systems/*.json or measurements.json",
    ("--set", "is_network=false"): "--set: 'is_network' is no field of systems/*.json or measurements.json",
    ("--set", "division=open"): "--set: 'division' has the flag --division",
    ("--set", "cooling=water", "--set", "cooling=air"): "--set: 'cooling' is given twice",
    ("--submitter", "a/b"): "--submitter: 'a/b' is no folder name",
    ("--division", "closd"): "--division: 'closd' is not one of closed, open, network",
    ("--calibration", "/nowhere"): "--calibration /nowhere: No such file or directory",
    ("--results", "/nowhere"): "--results /nowhere: is not a directory",
    ("--results", "/proc/self/fdinfo"): "--results: no <scenario>/<performance|accuracy|TESTnn>/run.json in",
    ("--sysinfo", "/nowhere"): "--sysinfo /nowhere: No such file or directory",
    ("--output", "/nowhere/tree"): "--output /nowhere/tree: the directory /nowhere does not exist",
}


@pytest.mark.parametrize("more", BAD_FLAGS, ids=" ".join)
def test_bad_input_is_one_line(
    made_runs: Path,
    repository: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: tuple[str, ...],
) -> None:
    """Exit code 2, one line with flag, value and reason, nothing written."""
    (tmp_path / "results").symlink_to(made_runs)
    assert 2 == main(flags(tmp_path / "results", repository, *more, given={}))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"tokenfleet submission: {BAD_FLAGS[more]}")
    assert set() == left_in(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"run_id": 1}'])
def test_a_bad_record_is_named(
    results: Path, repository: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    """A run.json that is no JSON or holds no object is one line; one without entries is a run with faults."""
    path = results / "offline/TEST07/run.json"
    path.write_text(content)
    assert 2 == main(flags(results, repository))
    told = capsys.readouterr().err
    assert (f"--results {path}: " in told) == (content != '{"run_id": 1}')
    if content == '{"run_id": 1}':
        assert "offline/TEST07: the run is without a verdict, not VALID" in told
        assert "offline/TEST07: run.json does not have the engine hash of every worker" in told
        assert "Traceback" not in told


@pytest.mark.parametrize(
    "words, line",
    [
        (["--output", "{r}/offline/TEST07/tree"], "--output {r}/offline/TEST07/tree: lies in {r}/offline, a"),
        (["--originals", "{r}/server/kept"], "--originals {r}/server/kept: lies in {r}/server, a directory"),
        (["--originals", "{r}/../tree"], "--originals {r}/../tree: lies in {r}/../tree; the accuracy logs"),
        (["--originals", "{r}/../tree/kept"], "--originals {r}/../tree/kept: lies in "),
    ],
)
def test_a_tree_is_no_part_of_the_runs(
    results: Path, repository: Path, capsys: pytest.CaptureFixture[str], words: list[str], line: str
) -> None:
    """Runs may be replaced, and the whole accuracy logs are not submitted."""
    more = [word.replace("{r}", str(results)) for word in words]
    outputs = ["--output", f"{results}/../tree"] if "--output" not in words else []
    assert 2 == main(flags(results, repository, *outputs, *more))
    assert line.replace("{r}", str(results)) in capsys.readouterr().err
    assert set() == left_in(results.parent)


def test_a_full_disk_leaves_no_tree(
    results: Path, repository: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line names the output, and nothing is left."""

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tree_module, "write_snapshot", fail)
    assert 2 == main(flags(results, repository))
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.endswith(f"--output {results.parent}/tree: cannot write: No space left on device")
    assert set() == left_in(results.parent)
