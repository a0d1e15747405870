"""A comparison as text and as JSON, line by line."""

from pathlib import Path

from sut.results.comparison.compared_figures import TOKENS_PER_S, shown_figures
from sut.results.comparison.compared_runs import ComparedRun, Side
from sut.results.comparison.comparison import Claim, ComparedSide, Comparison, FigureRow
from sut.results.comparison.comparison_text import as_json, describe_total, format_text
from sut.results.comparison.configuration_differences import Difference
from sut.results.comparison.ratio_interval import RatioInterval

INTERVAL = RatioInterval(0.9, 0.85, 0.95004, 0.98, removes_drift=True)
CPU = shown_figures()[-1]


def side(name: str, *outcomes: str) -> Side:
    """Make a side of Offline runs that ended so."""
    runs = [
        ComparedRun(
            Path(f"results/{name}{at}"),
            {
                "scenario": "offline",
                "mode": "performance",
                "run_id": f"{name}{at}",
                "started_utc": f"2026-12-01T01:0{at}:00+00:00",
                "verdict": {"outcome": outcome},
            },
        )
        for at, outcome in enumerate(outcomes)
    ]
    return Side(name, Path("results") / name, tuple(runs))


COMPARISON = Comparison(
    sides=(side("A", "VALID", "INVALID", "VALID"), side("B", "VALID")),
    rows=(
        FigureRow(
            TOKENS_PER_S,
            True,
            (
                ComparedSide("A", (1_900.0, 2_000.0, 2_400.0), None, None),
                ComparedSide("B", (1_890.0,), 0.9, INTERVAL),
            ),
        ),
        FigureRow(
            CPU, False, (ComparedSide("A", (8.0,), None, None), ComparedSide("B", (12.3456789,), 1.5, None))
        ),
    ),
    claims=(Claim("B", "tokens/s", True, "B is slower"),),
    differences=(
        Difference("config.long", ("x" * 48 + "y", "z")),
        Difference("round", ("v6.1", "-")),
    ),
    notes=("word " * 21 + "end", "short"),
)


def test_the_text_has_sides_claims_figures_and_differences() -> None:
    """Notes are wrapped at 100 characters, cells cut at 48, and columns as wide as their widest cell."""
    assert [
        "== comparison, offline performance ==",
        "   A  results/A: 3 runs, 1 INVALID, 2 VALID",
        "   B  results/B: 1 run, 1 VALID",
        "",
        "   B is slower",
        "   " + "word " * 19 + "word",
        "   word end",
        "   short",
        "",
        "   figure                                 A                       B       B / A",
        "   tokens/s*                              2,100 (1,900 to 2,400)  1,890   0.9000 (0.8500 to 0.9500)",
        "   coordinator CPU, s per million tokens  8                       12.346  1.5000",
        "   * tested: a sentence above says whether the difference is more than noise",
        "",
        "   2 differences of configuration:",
        f"   config.long: A {'x' * 48}; B z",
        "   round: A v6.1; B -",
    ] == format_text(COMPARISON).split("\n")


def test_without_differences_the_text_says_so() -> None:
    """One difference is singular; above 60 the first 60 are shown."""
    none = format_text(COMPARISON._replace(differences=()))
    assert none.endswith("\n\n   no difference of configuration in run.json")
    many = [Difference(f"d{number:02}", ("a", "b")) for number in range(61)]
    assert "1 difference of configuration" == describe_total(many[:1])
    assert "60 differences of configuration" == describe_total(many[:60])
    total = "61 differences of configuration, the first 60 of them (all: --json)"
    assert total == describe_total(many)
    text = format_text(COMPARISON._replace(differences=tuple(many)))
    assert text.endswith("\n   d58: A a; B b\n   d59: A a; B b")
    found = as_json(COMPARISON._replace(differences=tuple(many)))["differences"]
    assert isinstance(found, list)
    assert 61 == len(found)


def test_the_json_has_every_number() -> None:
    """Format 1."""
    a, b = (
        {
            "name": name,
            "path": f"results/{name}",
            "runs": [
                {
                    "directory": f"results/{name}{at}",
                    "run_id": f"{name}{at}",
                    "started_utc": f"2026-12-01T01:0{at}:00+00:00",
                    "outcome": outcome,
                }
                for at, outcome in enumerate(outcomes)
            ],
        }
        for name, outcomes in (("A", ("VALID", "INVALID", "VALID")), ("B", ("VALID",)))
    )
    assert {
        "format": 1,
        "sides": [a, b],
        "claims": [
            {"side": "B", "figure": "tokens/s", "is_more_than_noise": True, "text": "B is slower"},
        ],
        "notes": ["word " * 21 + "end", "short"],
        "figures": [
            {
                "name": "tokens/s",
                "unit": "tokens/s",
                "tested": True,
                "sides": [
                    {"side": "A", "values": [1_900.0, 2_000.0, 2_400.0], "ratio": None, "interval": None},
                    {
                        "side": "B",
                        "values": [1_890.0],
                        "ratio": 0.9,
                        "interval": {
                            "ratio": 0.9,
                            "low": 0.85,
                            "high": 0.95004,
                            "confidence": 0.98,
                            "removes_drift": True,
                        },
                    },
                ],
            },
            {
                "name": "coordinator CPU",
                "unit": "s per million tokens",
                "tested": False,
                "sides": [
                    {"side": "A", "values": [8.0], "ratio": None, "interval": None},
                    {"side": "B", "values": [12.3456789], "ratio": 1.5, "interval": None},
                ],
            },
        ],
        "differences": [
            {"name": "config.long", "values": {"A": "x" * 48 + "y", "B": "z"}},
            {"name": "round", "values": {"A": "v6.1", "B": "-"}},
        ],
    } == as_json(COMPARISON)
