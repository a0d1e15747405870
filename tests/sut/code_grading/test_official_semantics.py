"""Programs get the verdicts of LiveCodeBench's evaluator, its oddities included.

Each verdict was derived from the evaluator's source (LiveCodeBench 28fef95, testing_util), and the evaluator
gave the same when it ran the program.
"""

from pathlib import Path

from sut.results.code_grading.program import GradingOptions
from tests.sut.code_grading.graded import LIMITS, SHORT_LIMITS, question, verdicts

TESTS = "".join(
    [
        question("sum", None, ("3\n1 2 3\n", "6\n"), ("2\n\n5 6", "11"), ("1\n7", "7.0")),
        question("flat", None, ("1 2", "3"), ("4 5", "9")),
        question("print", None, ("", "0.50 1e3\nabc"), ("", "0.5 1000\nabc  ")),
        question("double", "double", ("[1, 2]", "[2, 4]"), ("[]", "[]"), ("[0]", "[0]")),
        question("add", "add", ("1\n2", "3"), ("0.5\n0.5", "1.0")),
        question("count", "count", ('"ab"', '{"a": 1, "b": 1}'), ('""', "{}")),
        question("pairs", "pairs", ("1", "[[1, 2]]")),
    ]
)
ADD_ALL = "print(sum(map(int, sys.stdin.read().split()[1:])))"
FLAT = "print(sum(map(int, {}.split())))"
# Passed, then failed programs by question; each is preceded by what it shows.
PASSED = {
    "names are imported beforehand": ("sum", ADD_ALL),
    "input() skips no line": (
        "sum",
        "input()\nline = input() or input()\nprint(sum(map(int, line.split())))",
    ),
    "sys.stdin.readline keeps line ends": (
        "sum",
        "import sys\nread = sys.stdin.readline\nread()\nline = read().strip() or read()\n"
        "print(sum(map(int, line.split())))",
    ),
    "a kept stdin reads too": ("sum", f"from sys import stdin\n{ADD_ALL.replace('sys.', '')}"),
    "sys.stdin.buffer has everything": ("sum", ADD_ALL.replace("stdin.", "stdin.buffer.")),
    "a main guard is taken away": ("sum", f"if __name__ == '__main__':\n    {ADD_ALL}\nelse:\n    exit(1)"),
    "exit ends a program well": ("sum", f"{ADD_ALL}\nexit(3)"),
    "a thread may do the work": (
        "sum",
        "import threading\nthreading.stack_size(1 << 22)\n"
        f"thread = threading.Thread(target=lambda: {ADD_ALL})\nthread.start()\nthread.join()",
    ),
    "a thread may be left running": (
        "sum",
        f"import threading, time\nthreading.Thread(target=time.sleep, args=(99,)).start()\n{ADD_ALL}",
    ),
    "the recursion limit is 50,000": ("sum", f"def f(n): return n and f(n - 1)\nf(30_000)\n{ADD_ALL}"),
    "numbers may have 50,000 digits": ("sum", f"str(10 ** 45_000)\n{ADD_ALL}"),
    "numpy can be imported": ("sum", f"import numpy\n{ADD_ALL.replace('sum(', 'numpy.sum(list(', 1)})"),
    "a module that imports numpy can be imported": ("sum", f"import sys, pandas as pd\n{ADD_ALL}"),
    "multiprocessing can be imported": ("sum", f"from multiprocessing.pool import ThreadPool\n{ADD_ALL}"),
    "builtins.open gives the input": ("flat", "import builtins\n" + FLAT.format("builtins.open(0).read()")),
    "numbers are equal as decimals": ("print", "print('.5   1_000.0 \\n  abc  \\n\\n')"),
    "a class Solution is called": (
        "double",
        "class Solution:\n def double(self, x: List[int]): return x * 0 + [2 * y for y in x]",
    ),
    "a tuple is a list": ("double", "def double(x): return tuple(2 * y for y in x)"),
    "a float is an int": ("double", "def double(x): return [2.0 * y for y in x]"),
    "a fraction is a number": (
        "double",
        "from fractions import Fraction\ndef double(x): return [Fraction(2 * y) for y in x]",
    ),
    "a number of numpy is a number": ("add", "import numpy as np\ndef add(a, b): return np.float64(a + b)"),
    "an array of one number is it": ("add", "import numpy as np\ndef add(a, b): return np.array([[a + b]])"),
    "a complex number is a number": ("add", "def add(a, b): return complex(a + b)"),
    "a Counter is a dict": ("count", "def count(x): return Counter(x)"),
    "what it prints does not matter": ("add", "def add(a, b):\n print('x')\n return a + b"),
    "a name imported beforehand may be the function": ("add", "def plus(a, b): return a - b"),
    "an exception for time may be caught": (
        "pairs",
        "import time\ndef pairs(x):\n try:\n  time.sleep(60)\n except Exception:\n  return [[1, 2]]",
    ),
}
FAILED = {
    "sys.stdin is no iterator": ("sum", "print(sum(int(line) for line in sys.stdin))"),
    "sys.stdin.buffer.readline stays at the first line": (
        "sum",
        "read = sys.stdin.buffer.readline\nread()\nprint(sum(map(int, (read().strip() or read()).split())))",
    ),
    "open(0) is empty": ("flat", FLAT.format("open(0).read()")),
    "file 0 is empty": ("flat", "import os\n" + FLAT.format("os.read(0, 99)")),
    "stdout has no buffer": ("print", "import sys\nsys.stdout.buffer.write(b'0.5 1000\\nabc')"),
    "stdout is not closed": ("print", "print('0.5 1000\\nabc')\nsys.stdout.close()"),
    "a kept stdout prints elsewhere": ("print", "from sys import stdout\nstdout.write('0.5 1000\\nabc')"),
    "quit is taken away": ("sum", f"{ADD_ALL}\nquit()"),
    "the end of the process is no result": ("sum", f"{ADD_ALL}\nimport os\nos._exit(0)"),
    "globals are variables of a function": (
        "sum",
        f"total = 0\ndef f():\n global total\n total += 1\nf()\n{ADD_ALL}",
    ),
    "the text class Solution changes a program on stdin": ("sum", f"x = 'class Solution'\n{ADD_ALL}"),
    "a main guard in the middle does not run": ("sum", f"if __name__ == '__main__':\n {ADD_ALL}\nx = 1"),
    "imports of the future are too late": ("sum", f"from __future__ import annotations\n{ADD_ALL}"),
    "resource cannot be imported": ("sum", f"import resource\n{ADD_ALL}"),
    "no exception passes": ("sum", f"{ADD_ALL}\nraise ValueError"),
    "a program without code": ("sum", ""),
    "a program that does not parse": ("sum", "print("),
    "a nesting that the parser refuses": ("sum", "(" * 3000 + ")" * 3000),
    "a line too many": ("print", "print('0.5 1000\\n\\nabc')"),
    "a word that is no number": ("print", "print('0.5 1000\\nabd')"),
    "a signalling NaN": ("print", "print('sNaN sNaN\\nabc')"),
    "a caught exception for time spoils the output": (
        "sum",
        f"import time\ntry:\n time.sleep(60)\nexcept Exception: pass\n{ADD_ALL}",
    ),
    "a tuple inside is no list": ("pairs", "def pairs(x): return [(1, 2)]"),
    "an array of several numbers has no truth": (
        "pairs",
        "import numpy\ndef pairs(x): return numpy.array([[1, 2]])",
    ),
    "a set is no list": ("double", "def double(x): return {2 * y for y in x}"),
    "a text is no number": ("add", "def add(a, b): return str(a + b)"),
    "no rounding": ("add", "def add(a, b): return a + b + 1e-9"),
    "keys are texts": ("count", "def count(x): return {ord(y): 1 for y in x}"),
    "a function of another name": ("double", "def twice(x): return [2 * y for y in x]"),
    "exit in a function that is called": ("add", "def add(a, b): exit()"),
    "a list in itself": ("double", "def double(x):\n x.append(x)\n return x"),
}


def test_programs_get_the_verdicts_of_the_official_evaluator(tmp_path: Path) -> None:
    """What the official evaluator accepts is accepted, and what it does not accept is wrong, not ungraded."""
    programs = PASSED | FAILED
    # One that waits for the end of its time has little of it; the others can import pandas on a busy machine.
    late = {name: program for name, program in programs.items() if "sleep(60)" in program[1]}
    prompt = {name: program for name, program in programs.items() if name not in late}
    given = {}
    for some, limits in ((late, SHORT_LIMITS), (prompt, LIMITS)):
        folder = tmp_path / f"{limits.test_timeout_s}"
        folder.mkdir()
        found = verdicts(folder, some.values(), TESTS, GradingOptions(4, limits=limits))
        given.update(zip(some, found, strict=True))
    expected = dict.fromkeys(PASSED, "passed") | dict.fromkeys(FAILED, "failed")
    assert expected == {name: verdict.outcome.value for name, verdict in given.items()}
