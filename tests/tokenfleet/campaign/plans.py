"""Plans for tests."""

from pathlib import Path

from tests import fleet

STRICT = """\
[campaign]
output-dir = "out"

[data]
performance = "perf.parquet"
accuracy = "acc.parquet"
compliance = "gpqa.parquet"
tokenizer = "tokenizer"
lcb-tests = "lcb.jsonl"

[offline]
target-qps = 12

[server]
target-qps = 10.5

[worker]
model = "m"

[[groups]]
name = "both"
scenarios = ["offline", "server"]

[submission]
submitter = "Org"
system = "one"
tree = "tree"
"""
"""A plan that could be submitted, as far as the file alone shows it."""

REHEARSAL = """\
[campaign]
output-dir = "out"

[data]
performance = "prompts.parquet"
accuracy = "prompts.parquet"
compliance = "prompts.parquet"
tokenizer = "tokenizer"

[offline]
target-qps = 100

[worker]
engine = "counting"
step-ms = 2

[rehearsal]
min-duration-s = 0.1
max-new-tokens = 64
runs = ["performance", "accuracy"]
"""
"""Two short runs with the counting engine."""


def write_plan(directory: Path, text: str, *edits: tuple[str, str]) -> Path:
    """Write a plan after some replacements, each of a text that it holds once."""
    for old, new in edits:
        assert 1 == text.count(old), old
        text = text.replace(old, new)
    path = directory / "plan.toml"
    path.write_text(text)
    return path


def write_rehearsal(directory: Path, *edits: tuple[str, str]) -> Path:
    """Write a plan of short runs and their data."""
    fleet.write_prompts(directory / "prompts.parquet", fleet.counting_prompts(40))
    return write_plan(directory, REHEARSAL, *edits)
