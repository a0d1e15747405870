"""Compose verify_accuracy.txt and verify_output_len.txt, in which the submission checker looks for TEST PASS.

The names of the figures are those of compliance/TEST07/run_verification.py and
compliance/TEST09/run_verification.py.
"""

from sut.results.compliance.compliance_verdict import ComplianceVerdict, LengthFigures

PASS, FAIL = "TEST PASS", "TEST FAIL"


def output_length_text(verdict: ComplianceVerdict, figures: LengthFigures) -> str:
    """Compose the text of TEST09."""
    low, high = verdict.bounds
    shortest, longest = min(figures.num_tokens, default=0), max(figures.num_tokens, default=0)
    lines = [
        f"{verdict.test.name}: mean length of the answers",
        "",
        f"Total samples: {len(figures.num_tokens)}",
        f"Mean output tokens: {figures.mean:.2f}",
        f"Min output tokens: {shortest}",
        f"Max output tokens: {longest}",
        f"Std deviation: {figures.deviation:.2f}",
        f"Min threshold: {low}",
        f"Max threshold: {high}",
        f"Min check pass: {figures.mean >= low}",
        f"Max check pass: {figures.mean <= high}",
    ]
    return _ended(lines, verdict)


def accuracy_text(verdict: ComplianceVerdict, score_text: str) -> str:
    """Compose the text of TEST07.

    Args:
        verdict: The verdict on the test.
        score_text: What scoring the answers has printed; its last line is the score.
    """
    if verdict.value is None:
        return _ended(["Accuracy score: none"], verdict)
    lines = [
        *score_text.splitlines(),
        "",
        f"{verdict.test.name}: score of the answers",
        "",
        f"Accuracy score: {round(verdict.value, 3)}",
        f"Accuracy threshold: {verdict.bounds.low}",
        f"Accuracy check pass: {verdict.value >= verdict.bounds.low}",
    ]
    return _ended(lines, verdict)


def _ended(lines: list[str], verdict: ComplianceVerdict) -> str:
    """Add the reasons and the line that the checker reads."""
    reasons = [f"Not passed: {reason}" for reason in verdict.reasons]
    return "\n".join([*lines, *reasons, "", PASS if verdict.passed else FAIL, ""])
