"""Read and check the input files of a run, before it connects to workers."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from common.flags import FlagError
from coordinator.config import RunConfig
from coordinator.recording.run_dir import check_free
from coordinator.transport.access import Access
from sut import data_rules, dataset, settings
from sut.benchmark import BENCHMARK, ComplianceTest
from sut.dataset import Dataset
from sut.loadgen_conf import AUDIT_FLAG, NO_USER_CONF, USER_FLAG, ConfFile, official_audit_config, read_conf
from sut.settings import GenerationConfig
from sut.user_conf import check_count, check_rate, compose_user_conf


@dataclass(frozen=True, slots=True)
class Inputs:
    """Contents of a run's input files."""

    dataset: Dataset
    generation: GenerationConfig
    user_conf: str
    """Text of the user.conf that LoadGen reads."""
    confs: "Confs"
    """Files of --user-conf and --audit-config."""
    access: Access
    """Credentials for connections to the workers."""

    @property
    def audit_conf(self) -> str | None:
        """Text of the audit.config that LoadGen reads."""
        return None if self.confs.audit is None else self.confs.audit.text

    @property
    def run_dir(self) -> Path:
        """Directory of the run's files."""
        return self.confs.run_dir

    @classmethod
    def read(cls, config: RunConfig) -> "Inputs":
        """Read and check every file; nothing is written.

        Raises:
            ValueError: Names flag or file, value and bound.
        """
        confs = read_confs(config)
        access = Access.read(config.security_files)
        generation = settings.load_generation_config(
            config.generation_config, config.mode, config.max_new_tokens
        )
        data = dataset.load(config.input_file, config.max_samples)
        _check_data(config, confs.compliance_test, data)
        user_conf = compose_user_conf(
            confs.user,
            scenario=config.scenario,
            mode=config.mode,
            num_samples=data.num_samples,
            target_qps=config.target_qps,
        )
        for conf in (confs.user, *confs.audits):
            check_count(conf, config.scenario, config.mode, data.num_samples)
        return cls(data, generation, user_conf, confs, access)


def _check_data(config: RunConfig, test: ComplianceTest | None, data: Dataset) -> None:
    """Check that the data set is that of the compliance test, and that the answers can be graded."""
    if test is not None:
        data_rules.check_test_data(test, data)
    if config.accuracy or (test is not None and test.mean_answer_len is None):
        _check_scoring(config, data)
    if config.ungraded:
        return
    if config.accuracy:
        data_rules.check_gradable(data, "--accuracy")
    elif test is not None and test.mean_answer_len is None:
        data_rules.check_gradable(data, test.name)


def _check_scoring(config: RunConfig, data: Dataset) -> None:
    """Check what an accuracy run or TEST07 is scored with."""
    if config.tokenizer is None:
        if config.lcb_tests is not None:
            raise FlagError("--lcb-tests", "needs --tokenizer, without which the run is not scored")
        return
    if config.ungraded:
        raise FlagError("--ungraded", "permits data that --tokenizer cannot score: give only one of them")
    data_rules.check_scorable(data, config.tokenizer, config.lcb_tests)


class Confs(NamedTuple):
    """The files that LoadGen reads, and what they decide."""

    user: ConfFile
    """--user-conf; without lines if it is not given."""
    audit: ConfFile | None
    """The file of --audit-config, or the settings of --compliance."""
    compliance_test: ComplianceTest | None
    """The test that the audit.config is of."""
    run_dir: Path
    """Directory of the run's files."""

    @property
    def audit_values(self) -> dict[str, str] | None:
        """Values of the audit.config by key; None without one."""
        return None if self.audit is None else self.audit.values

    @property
    def audits(self) -> list[ConfFile]:
        """List the audit.config if there is one."""
        return [] if self.audit is None else [self.audit]


def read_confs(config: RunConfig) -> Confs:
    """Read --user-conf (empty if not given) and the audit settings, and check that the run may begin.

    Raises:
        ValueError: Names flag, file and error, or the directory of an earlier run.
    """
    if config.accuracy and config.audit_config is not None:
        # An audit.config would set LoadGen's mode to performance, and LoadGen would crash.
        raise FlagError("--accuracy", f"--audit-config {config.audit_config} is for a performance run")
    user = NO_USER_CONF if config.user_conf is None else read_conf(USER_FLAG, config.user_conf)
    check_rate(user, config.scenario, config.target_qps)
    audit, test = _read_audit(config)
    run_dir = config.run_dir(test)
    check_free(run_dir, overwrite=config.overwrite)
    return Confs(user, audit, test, run_dir)


def _read_audit(config: RunConfig) -> tuple[ConfFile | None, ComplianceTest | None]:
    """Return the audit settings of --compliance or --audit-config, and their compliance test.

    Raises:
        FlagError: Names the file and the error.
    """
    if config.compliance is not None:
        test = BENCHMARK.compliance_test_named(config.compliance)
        return official_audit_config(test), test
    if config.audit_config is None:
        return None, None
    audit = read_conf(AUDIT_FLAG, config.audit_config)
    return audit, data_rules.find_compliance_test(audit, config.audit_config)
