"""The runs of a search: directory, confs and flags of each."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

from common.atomic_files import replace_files
from coordinator.config import RunConfig, to_argv
from coordinator.inputs import Inputs
from sut.loadgen import LoadGenSettings
from sut.run_length import RunLength, setting_number
from sut.settings import Scenario
from tokenfleet.find_qps.config import FindQpsConfig
from tokenfleet.find_qps.rate_search import RunLengthKind

SHORT_SHARE = 1 / 3
# Fewer queries do not tell the percentile.
MIN_SHORT_QUERIES = 500
# A run that is lost goes on until this share of its queries is over a limit, which tells how far it is lost:
# with less, searches in virtual time ended 1 to 3 % lower, or found no rate within their runs.
OVER_SHARE = 0.05
# LoadGen's schedule may need one more block of queries than its mean rate.
SCHEDULE_SLACK = 1.05


class PlannedSearchRun(NamedTuple):
    """One run of a search."""

    number: int
    """From 1."""
    kind: RunLengthKind
    target_qps: float

    def __str__(self) -> str:
        """Name it as the lines of the search do."""
        return f"run {self.number} ({self.kind}, {self.target_qps:.4g} queries/s)"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SearchPlan:
    """What a search runs, read and checked before its first run."""

    config: FindQpsConfig
    run: RunConfig
    directory: Path
    user_text: str
    """Lines of --user-conf."""
    dataset_sha256: str
    full: RunLength
    short: RunLength
    ttft_limit_ns: int
    tpot_limit_ns: int

    @classmethod
    def read(cls, config: FindQpsConfig, run: RunConfig) -> "SearchPlan":
        """Read the files of the runs.

        Raises:
            ValueError: Names flag or file, value and bound.
        """
        directory = run.output_dir / "find-qps" / (f"{run.scenario}-sweep" if config.sweep else run.scenario)
        rate = config.min_qps or 1.0
        unused = dataclasses.replace(run, output_dir=directory / ".not-created", target_qps=rate)
        inputs = Inputs.read(unused)
        settings = LoadGenSettings.read(inputs.user_conf, None, run.scenario).logged
        full = RunLength.of(settings)
        short_s = config.short_duration_s or full.min_duration_s * SHORT_SHARE
        return cls(
            config=config,
            run=run,
            directory=directory,
            user_text=inputs.confs.user.text,
            dataset_sha256=inputs.dataset.sha256,
            full=full,
            short=full._replace(
                min_duration_s=short_s,
                min_query_count=min(MIN_SHORT_QUERIES, full.num_queries(rate)),
                block=1,
            ),
            ttft_limit_ns=int(setting_number(settings, "requested_server_ttft_latency")),
            tpot_limit_ns=int(setting_number(settings, "requested_server_tpot_latency")),
        )

    @property
    def identity(self) -> dict[str, object]:
        """What a search that continues must have in common with its earlier start."""
        own = {
            f"--{name.replace('_', '-')}": value for name, value in dataclasses.asdict(self.config).items()
        }
        given = dict(
            word.partition("=")[::2] for word in to_argv(dataclasses.replace(self.run, output_dir=Path()))
        )
        contents = {
            "--user-conf, its lines": self.user_text,
            "--input-file, its content": self.dataset_sha256,
        }
        return own | given | contents

    def write_confs(self) -> None:
        """Write the user.conf of short and of full runs."""
        key = f"{self.run.scenario.model_name}.{self.run.scenario.loadgen_name}"
        lines = {
            "min_duration": round(self.short.min_duration_s * 1000),
            "min_query_count": self.short.min_query_count,
            # Samples are drawn one by one: no whole multiple of the data set is needed.
            "sample_concatenate_permutation": 0,
        }
        text = "".join(f"{key}.{name} = {value}\n" for name, value in lines.items())
        replace_files(self.directory, {"full.conf": self.user_text})
        replace_files(self.directory, {"short.conf": self.user_text + text})

    def output_dir(self, run: PlannedSearchRun) -> Path:
        """Return the run's --output-dir."""
        return self.directory / "runs" / str(run.number)

    def run_dir(self, run: PlannedSearchRun) -> Path:
        """Return the directory of the run's files."""
        return self._run_config(run).run_dir(None)

    def log(self, run: PlannedSearchRun) -> Path:
        """Return the file with the run's output."""
        return self.directory / "logs" / f"run-{run.number}.log"

    def argv(self, run: PlannedSearchRun) -> list[str]:
        """Compose the flags of the run."""
        return to_argv(self._run_config(run))

    def max_over_latency(self, run: PlannedSearchRun) -> int | None:
        """Return the number of queries over a limit with which a run is ended; None: it goes on to its end.

        A run of full length is then lost for certain.
        """
        if self.run.scenario is Scenario.OFFLINE or self.config.sweep:
            return None
        length = self.full if run.kind is RunLengthKind.FULL else self.short
        telling = round(length.num_queries(run.target_qps) * OVER_SHARE)
        return max(self.full.allowed(run.target_qps * SCHEDULE_SLACK), telling)

    def _run_config(self, run: PlannedSearchRun) -> RunConfig:
        return dataclasses.replace(
            self.run,
            output_dir=self.output_dir(run),
            target_qps=run.target_qps,
            user_conf=self.directory / f"{run.kind}.conf",
            max_over_latency=self.max_over_latency(run),
        )
