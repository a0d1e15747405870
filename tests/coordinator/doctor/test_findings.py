"""The doctor's table: findings -> rows -> text."""

from coordinator.doctor.findings import Check, Finding, Level, Row, differing, exit_code, layout


def test_difference_is_from_what_most_have() -> None:
    """Two of three are right; of two equally common values the first is."""
    found, usual = differing({"a": "x", "b": "y", "c": "y"}, Level.WARN, "do")
    assert ([Finding("a", Level.WARN, "x where b, c has y", "do")], "y") == (found, usual)
    found, usual = differing({"a": "x", "b": "y"}, Level.WARN, "do")
    assert ([Finding("b", Level.WARN, "y where a has x", "do")], "x") == (found, usual)
    assert ([], "x") == differing({"a": "x", "b": "x"}, Level.WARN, "do")


def test_large_fleet_makes_a_short_table() -> None:
    """A hundred workers with one trouble are one row with three names; another advice is another row."""
    findings = [Finding(f"n{i}:1", Level.WARN, "full", "empty it") for i in range(100)]
    findings.append(Finding("m:1", Level.FAIL, "burnt", "replace it"))
    assert [
        Row("machines", "disk", Level.WARN, "n0:1, n1:1, n2:1 and 97 more: full", "empty it"),
        Row("machines", "disk", Level.FAIL, "m:1: burnt", "replace it"),
    ] == Check("machines", "disk").rows(findings, "fine")


def test_layout_is_aligned_and_counts() -> None:
    """A group has its heading once; below what is not well stands what to do; the last line counts."""
    rows = [
        Row("workers", "reachable", Level.OK, "all"),
        Row("workers", "free", Level.FAIL, "a:1: run\nx", "wait"),
        Row("machines", "load", Level.WARN, "9", "look"),
    ]
    assert (
        "workers\n"
        "  ok    reachable  all\n"
        "  FAIL  free       a:1: run?x\n"
        "                   -> wait\n"
        "machines\n"
        "  warn  load       9\n"
        "                   -> look\n"
        "not checked: x\n"
        "1 fail, 1 warn, 1 ok"
    ) == layout(rows, ["x"])
    assert (1, 0) == (exit_code(rows), exit_code([rows[0], rows[2]]))
