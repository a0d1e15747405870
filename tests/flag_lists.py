"""The lists of flags in docs/configuration.md, generated from their declarations.

`python -m tests.flag_lists` rewrites them.
"""

import dataclasses
import re
import textwrap
from pathlib import Path

from common.flags import Declared, Flags, declared, default_values
from coordinator.config import RunConfig
from coordinator.doctor.command import DoctorConfig
from sut.results.accuracy.config import AccuracyConfig
from sut.results.comparison.compare_command import CompareConfig
from sut.results.compliance.config import ComplianceConfig
from sut.results.report.config import ReportConfig
from tokenfleet.find_qps.config import FindQpsConfig
from tokenfleet.network.sut_program import NetworkSutConfig
from tokenfleet.plan.plan_command import PlanConfig
from tokenfleet.qualify.first_contact import QualifyConfig
from tokenfleet.qualify.reference_program import ReferenceConfig
from tokenfleet.spans.spans_command import SpansConfig
from worker.config import ModelConfig, WorkerConfig
from worker.engines.scripted.cost_model import CostModel
from worker.engines.scripted.counting import CountingConfig
from worker.engines.scripted.replay import ReplayConfig
from worker.engines.scripted.simulated import SimulatedConfig

PAGE = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"
LISTS: dict[str, tuple[type[Flags], ...]] = {
    "coordinator": (RunConfig,),
    "doctor": (DoctorConfig,),
    "accuracy": (AccuracyConfig,),
    "report": (ReportConfig,),
    "compliance": (ComplianceConfig,),
    "compare": (CompareConfig,),
    "qualify": (QualifyConfig,),
    "reference": (ReferenceConfig,),
    "spans": (SpansConfig,),
    "plan": (PlanConfig,),
    "findqps": (FindQpsConfig,),
    "network": (NetworkSutConfig,),
    "worker": (ModelConfig, WorkerConfig),
    "counting": (CountingConfig,),
    "simulated": (SimulatedConfig, CostModel),
    "replay": (ReplayConfig,),
}
MAX_LINE_LEN = 110
_LIST = re.compile(r"(?<=<!-- flags: )(\w+) -->\n.*?(?=<!-- end of flags -->)", re.DOTALL)


def filled(page: str) -> str:
    """Return the page with its lists as the declarations have them."""
    return _LIST.sub(lambda match: f"{match[1]} -->\n{_render(*LISTS[match[1]])}", page)


def _render(*configs: type[Flags]) -> str:
    return "".join(_entry(flag, default_values(config)) for config in configs for flag in declared(config))


def _entry(flag: Declared, defaults: dict[str, object]) -> str:
    forms = f"`{flag.option}`, `--no-{flag.name}`" if flag.kind is bool else f"`{flag.option} {flag.metavar}`"
    told = flag.facts(defaults.get(flag.field, dataclasses.MISSING))
    # Markdown would read <scenario> as HTML.
    text = f"- {forms}{told}: {flag.flag.help}.".replace("<", r"\<")
    return f"{textwrap.fill(text, MAX_LINE_LEN, subsequent_indent='  ', break_on_hyphens=False)}\n"


def named(page: str) -> list[str]:
    """List the lists that a page has."""
    return [match[1] for match in _LIST.finditer(page)]


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
