"""A side of bench.gpu without an engine: `python -m tests.bench.scripted_side BUDGETS ACTION ...`.

A line of standard input names the file of a plan, and each round takes an action. The actions are `ok`,
`short` (one token less), `die`, `hang`, `core` (hang without engine core); `load` as the first one never gets
ready.
"""

import json
import subprocess
import sys
import time
from pathlib import Path


def main(budgets: list[int], actions: list[str]) -> None:
    """Answer a round for each action."""
    if actions[:1] == ["load"]:
        time.sleep(600)
    core = start_core() if "core" in actions else None
    say({"engine_s": time.time(), "config": {}})
    for action in actions:
        plan = json.loads(Path(sys.stdin.readline().strip()).read_text())
        nums = [budgets[sample] for sample in plan["samples"]]
        if action == "hang":
            time.sleep(600)
        if action == "core" and core is not None:
            core.kill()
            time.sleep(600)
        if action == "die":
            sys.exit("the engine is dead")
        nums[0] -= action == "short"
        # All first tokens after 0.1 s; the answer of n tokens ends after n times 0.1 s.
        rows = [[0, 100_000_000, num * 100_000_000, num] for num in nums]
        begin_s = time.time()
        say({"begin_s": begin_s, "end_s": begin_s + max(nums) * 0.1, "rows": rows, "compiled_kernels": 3})
    sys.stdin.readline()


def start_core() -> subprocess.Popen[bytes]:
    """Start a process under the title of vLLM's engine core, which ends 0.5 s after this one."""
    code = """
import os, time
open("/proc/self/comm", "w").write("VLLM::EngineCore")
parent = os.getppid()
print(flush=True)
while os.getppid() == parent:
    time.sleep(0.05)
time.sleep(0.5)
"""
    core = subprocess.Popen(
        [sys.executable, "-S", "-c", code], stdout=subprocess.PIPE, start_new_session=True
    )
    assert core.stdout is not None
    core.stdout.readline()
    return core


def say(message: dict[str, object]) -> None:
    """Write one JSON line."""
    print(json.dumps(message), flush=True)  # noqa: T201 - the protocol


if __name__ == "__main__":
    main([*map(int, sys.argv[1].split(","))], sys.argv[2:])
