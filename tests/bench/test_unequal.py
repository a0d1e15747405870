"""Two unequal vLLM workers: every answer is LLM.generate's, and who did what is told."""

import json
from pathlib import Path

import pytest

from bench.cpu_limit import Quota, find_hierarchy, quota
from bench.unequal import lines_of, main, summary
from bench.unequal_figures import Part, Round
from tests.bench.outliving import run_bench

# 32 prompts twice, answers of 2 to 64 tokens.
TINY = ["--samples", "32", "--requests", "64", "--slots", "8", "--longest-answer", "64", "--rounds", "1"]


@pytest.fixture(params=["quota", "signals"])
def limit(request: pytest.FixtureRequest) -> str:
    """Name a kind of limit that can be had here."""
    name: str = request.param
    if name == "quota":
        try:
            with quota():
                pass
        except OSError as error:
            pytest.skip(f"no CPU quota here: {error}")
    return name


@pytest.mark.vllm
@pytest.mark.long
def test_a_round_tells_who_did_what(tmp_path: Path, limit: str) -> None:
    """Under either limit 64 exact answers come, all counted at one worker or the other, with both ends."""
    output = tmp_path / "figures.json"
    done = run_bench(["bench.unequal", *TINY, "--limit", limit, "--output", str(output)], 600)
    assert 0 == done.returncode, done.stdout + done.stderr
    record = json.loads(output.read_text())
    assert record["engine"].startswith("vllm ")
    (found,) = record["rounds"]
    assert ("VALID", 64) == (found["outcome"], found["answers"])
    assert ["free", "held"] == [part["name"] for part in found["workers"]]
    assert 64 == sum(part["requests"] for part in found["workers"])
    free, held = found["workers"]
    assert found["difference_s"] == held["ended_s"] - free["ended_s"]
    for part in found["workers"]:
        assert 0 < part["service_p50_s"] <= part["service_max_s"] <= part["ended_s"]


def test_the_goal_is_judged_by_the_shorter_request() -> None:
    """Ends 2 s apart with requests of 2 and 4 s: met; 2.1 s: not; two halves would end 12 s apart.

    100 + 50 tokens in 20 s and 18 s are 5 and 25/9 tokens/s; halves of 75 tokens take 15 s and 27 s.
    """
    free = Part(requests=10, tokens=100, ended_s=20.0, service_p50_s=2.0, service_max_s=3.0)
    held = Part(requests=5, tokens=50, ended_s=18.0, service_p50_s=4.0, service_max_s=5.0)
    found = Round([free, held], 15, "VALID", "vllm")
    assert (-2.0, 2.0, True) == (found.difference_s, found.request_s, found.met)
    assert 12.0 == pytest.approx(found.halves_difference_s)
    assert not Round([free, held._replace(ended_s=17.9)], 15, "VALID", "vllm").met
    assert "MISSED" in summary([Round([free, held._replace(ended_s=22.1)], 15, "VALID", "vllm")])
    assert ["free", "held"] == [line.split()[-7] for line in lines_of(0, found).splitlines()]


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--share", "0"], "--share: 0.0 is not in 0.05..1"),
        (["--longest-answer", "1"], "--longest-answer: 1 is below 2"),
        (["--requests", "9", "--samples", "10"], "--requests: 9 is below --samples 10"),
        (["--limit", "prayer"], "'prayer' is none of quota, signals"),
        (["--rounds", "0"], "--rounds: 0 is below 1"),
        (["--output", "/nowhere/figures.json"], "--output: /nowhere is no directory"),
    ],
)
def test_bad_input_is_one_line(argv: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, and one line that names the flag, the value and the bound."""
    assert 2 == main(argv)
    (line,) = capsys.readouterr().out.splitlines()
    assert named in line


def test_a_quota_is_written_as_each_version_reads_it(tmp_path: Path) -> None:
    """Half of a core is 10 of 20 ms: in one line of cpu.max, or in two files of version 1."""
    Quota(tmp_path, 2).limit(0.5)
    assert "10000 20000\n" == (tmp_path / "cpu.max").read_text()
    Quota(tmp_path, 1).limit(0.5)
    assert "20000\n" == (tmp_path / "cpu.cfs_period_us").read_text()
    assert "10000\n" == (tmp_path / "cpu.cfs_quota_us").read_text()


def test_the_hierarchy_with_the_cpu_controller_is_found(tmp_path: Path) -> None:
    """Version 1 says so in its mount options, version 2 in cgroup.controllers; where neither is, OSError."""
    controllers = tmp_path / "cgroup.controllers"
    unified, cpuset = f"cgroup2 {tmp_path} cgroup2 rw 0 0\n", "cgroup /c cgroup rw,cpuset 0 0\n"
    controllers.write_text("io memory\n")
    assert (Path("/a"), 1) == find_hierarchy(cpuset + unified + "cgroup /a cgroup rw,cpu,cpuacct 0 0\n")
    with pytest.raises(OSError, match="cpu controller"):
        find_hierarchy(cpuset + unified)
    controllers.write_text("cpuset cpu io\n")
    assert (tmp_path, 2) == find_hierarchy(cpuset + unified)
