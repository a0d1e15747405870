"""Constants that MLPerf Inference defines for a benchmark or round, each with its source.

A new benchmark or round is a new entry. The comments below use these names for the sources:

    mlperf.conf  loadgen/mlperf.conf of mlcommons/inference, embedded in mlcommons-loadgen 6.0.17
    checker      tools/submission/submission_checker/constants.py of mlcommons/inference, v6.1
    README       language/gpt-oss-120b/README.md of mlcommons/inference
    rules        inference_rules.adoc of mlcommons/inference_policies
    compliance   compliance/TEST07 and compliance/TEST09 of mlcommons/inference
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple


class OtherFigure(NamedTuple):
    """A different value that another source gives for the same figure."""

    value: int
    source: str


class Figure(NamedTuple):
    """A figure that is shown to the user with its source."""

    value: int
    """Default value."""
    source: str
    others: tuple[OtherFigure, ...] = ()
    """Sources with a different value."""

    def __str__(self) -> str:
        """Name the default value and every source with a different one."""
        differing = "".join(f"; {other.value:,} by {other.source}" for other in self.others)
        return f"default {self.value:,} by {self.source}{differing}"


class LatencyLimits(NamedTuple):
    """A model name in LoadGen and the latency limits that LoadGen applies to it."""

    model_name: str
    """First part of a key in user.conf."""
    ttft_ns: Figure
    tpot_ns: Figure


class StopId(NamedTuple):
    """A token that ends an answer."""

    token_id: int
    text: str
    meaning: str


class MeanBounds(NamedTuple):
    """Inclusive bounds of a mean."""

    low: float
    high: float


class ComplianceTest(NamedTuple):
    """A performance run with an audit.config that makes LoadGen log every answer."""

    name: str
    num_samples: int
    """Rows of its data set; also LoadGen's performance sample count."""
    thresholds: dict[str, str]
    """Keys that only this test's audit.config has, with their official values.

    The test's run_verification.py reads them, LoadGen does not.
    """
    loadgen_settings: dict[str, str]
    """Keys of its audit.config that LoadGen reads, with their official values."""
    dataset_prefix: str = ""
    """Beginning of every value of the data set's column `dataset`, in lower case."""
    mean_answer_len: MeanBounds | None = None
    """The test passes if the mean answer length in tokens is within; None: a grader decides the test."""

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys that only this test's audit.config has."""
        return tuple(self.thresholds)

    @property
    def audit_config(self) -> str:
        """Text of an audit.config with the official values."""
        values = self.loadgen_settings | self.thresholds
        return "".join(f"*.*.{key} = {value}\n" for key, value in values.items())


def _audit_settings(num_samples: int, sampling_target: int) -> dict[str, str]:
    """Return the settings with which LoadGen issues each sample once and logs every answer."""
    return {
        "mode": "2",
        "accuracy_log_rng_seed": "720381539243781796",
        "accuracy_log_sampling_target": str(sampling_target),
        "min_query_count": str(num_samples),
        "min_duration": "0",
        "performance_issue_unique": "1",
        "sample_concatenate_permutation": "0",
    }


class SpeculationRules(NamedTuple):
    """The speculative decoding that the rules allow in Interactive."""

    algorithm: str
    head: str
    """Draft model on Hugging Face."""
    num_steps: int
    top_k: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """Constants of one benchmark."""

    name: str
    """Folder of its results in a submission."""
    repository: str
    """Model on Hugging Face."""
    sizes: dict[str, int]
    """Sizes of the model, by the keys of its config.json."""
    standard: LatencyLimits
    """Limits of Server; Offline uses the same model name and has no limits."""
    interactive: LatencyLimits
    """Limits of Interactive, which LoadGen runs as Server with another model name."""
    speculation: SpeculationRules
    performance_sample_count: int
    """Rows of the performance data set; also LoadGen's count and the minimum size of an Offline query."""
    accuracy_sample_count: int
    """Rows of the accuracy data set; also LoadGen's count."""
    min_duration_ms: int
    """Minimum duration of a performance run; does not apply to compliance tests."""
    latency_percentile: float
    """Fraction of queries that must meet the latency limits."""
    performance_max_new_tokens: Figure
    """Longest answer in a performance run or compliance test, in tokens."""
    accuracy_max_new_tokens: Figure
    """Longest answer in an accuracy run, in tokens."""
    temperature: float
    top_p: float
    top_k: int
    """-1 means all candidates."""
    stop_ids: tuple[StopId, ...]
    message_tokens: dict[int, str]
    """Special tokens that separate the messages of an answer, by id."""
    vocab_size: int
    first_special_id: int
    """Lowest id of a special token; synthetic prompts use lower ids only."""
    max_prompt_len: int
    """Longest prompt, in tokens."""
    mean_answer_len: float
    """Mean answer length over the performance data set, in tokens."""
    mean_accuracy_answer_len: float
    """Mean answer length over the accuracy data set, in tokens; only for estimates of durations."""
    accuracy_rows: dict[str, int]
    """Rows of the accuracy data set by the value of its column `dataset`."""
    accuracy_repeats: dict[str, int]
    """Rows of each question, by the value of the column `dataset`."""
    accuracy_target_percent: float
    """Smallest score of an accuracy run."""
    grading_columns: tuple[str, ...]
    """Columns that the script which grades the answers reads from the data set."""
    compliance_tests: tuple[ComplianceTest, ...]

    @property
    def dataset_names(self) -> tuple[str, ...]:
        """Values of the column `dataset` of the accuracy data set."""
        return tuple(self.accuracy_rows)

    def compliance_test(self, keys: Iterable[str]) -> ComplianceTest | None:
        """Return the only compliance test that has some of an audit.config's keys, or None."""
        tests = [test for test in self.compliance_tests if test.thresholds.keys() & set(keys)]
        return tests[0] if len(tests) == 1 else None

    def compliance_test_named(self, name: str) -> ComplianceTest:
        """Return the compliance test with this name.

        Raises:
            KeyError: There is none.
        """
        return {test.name: test for test in self.compliance_tests}[name]


class Seeds(NamedTuple):
    """LoadGen's seeds, which change with each round."""

    qsl: int
    sample_index: int
    schedule: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Constants of one submission round."""

    name: str
    seeds: Seeds
    """Seeds embedded in LoadGen; a user.conf cannot set them."""
    loadgen_versions: tuple[str, ...]
    """Releases of mlcommons-loadgen on PyPI that contain the seeds."""
    checker_version: str
    """Value of the submission checker's --version."""
    benchmarks: tuple[Benchmark, ...]
    """Benchmarks with the limits of this round."""


GPT_OSS_120B = Benchmark(
    name="gpt-oss-120b",  # checker
    repository="openai/gpt-oss-120b",  # README
    # config.json of openai/gpt-oss-120b
    sizes={
        "num_hidden_layers": 36,
        "hidden_size": 2880,
        "intermediate_size": 2880,
        "num_local_experts": 128,
        "num_experts_per_tok": 4,
    },
    standard=LatencyLimits(
        "gpt-oss-120b",  # mlperf.conf
        ttft_ns=Figure(3_000_000_000, "mlperf.conf and the submission checker"),
        tpot_ns=Figure(80_000_000, "mlperf.conf and the submission checker"),
    ),
    interactive=LatencyLimits(
        "gpt-oss-120b-interactive",  # mlperf.conf
        ttft_ns=Figure(2_000_000_000, "mlperf.conf and the submission checker"),
        # LoadGen decides VALID by mlperf.conf.
        tpot_ns=Figure(
            15_000_000,
            "mlperf.conf and the submission checker",
            (OtherFigure(20_000_000, "the rules (inference_rules.adoc)"),),
        ),
    ),
    # rules, appendix "Speculative Decoding"
    speculation=SpeculationRules("eagle3", "nvidia/gpt-oss-120b-Eagle3-long-context", num_steps=3, top_k=1),
    performance_sample_count=6396,  # mlperf.conf, checker
    accuracy_sample_count=4395,  # mlperf.conf, checker
    min_duration_ms=600_000,  # mlperf.conf, checker
    latency_percentile=0.99,  # mlperf.conf
    # TEST09 compares the mean answer length with a reference generated with the README's limit.
    performance_max_new_tokens=Figure(
        10_240,
        "the reference's README and TEST09",
        (OtherFigure(10_000, "the rules (inference_rules.adoc)"),),
    ),
    accuracy_max_new_tokens=Figure(32_768, "the reference's README"),
    # language/gpt-oss-120b/generation_config.json, which sets no seed.
    temperature=1.0,
    top_p=1.0,
    top_k=-1,
    # generation_config.json of openai/gpt-oss-120b; the names are those of its tokenizer.
    stop_ids=(
        StopId(200_002, "<|return|>", "end of the answer"),
        StopId(199_999, "<|endoftext|>", "end of the text"),
        StopId(200_012, "<|call|>", "call of a tool"),
    ),
    # o200k_harmony in openai-harmony.
    message_tokens={
        200_005: "<|channel|>",
        200_006: "<|start|>",
        200_007: "<|end|>",
        200_008: "<|message|>",
    },
    vocab_size=201_088,  # config.json of openai/gpt-oss-120b
    first_special_id=199_998,  # its tokenizer: <|startoftext|>
    max_prompt_len=15_330,  # rules, appendix on benchmarks
    mean_answer_len=1_278.2,  # compliance: TEST09 accepts 1278.20 +- 10 %
    mean_accuracy_answer_len=9_999,  # checker: the limit of TOKENS_PER_SAMPLE is 1.1 times this
    # eval_mlperf_accuracy.py; README: 30 questions 8 times, 198 5 times and 1,055 3 times.
    accuracy_rows={"aime25": 240, "gpqa_diamond": 990, "livecodebench_v6": 3165},
    accuracy_repeats={"aime25": 8, "gpqa_diamond": 5, "livecodebench_v6": 3},
    accuracy_target_percent=82.2987,  # checker: 99 % of the reference's 83.13
    grading_columns=("dataset", "ground_truth"),  # eval_mlperf_accuracy.py
    compliance_tests=(
        # README: rows of acc_eval_compliance_gpqa.parquet. Keys and values: each test's audit.config.
        ComplianceTest(
            "TEST07",
            990,
            {"test07_accuracy_threshold": "60.698"},
            _audit_settings(990, sampling_target=990),
            dataset_prefix="gpqa",
        ),
        ComplianceTest(
            "TEST09",
            6396,
            {"test09_min_output_tokens": "1150.38", "test09_max_output_tokens": "1406.02"},
            _audit_settings(6396, sampling_target=10_000),
            mean_answer_len=MeanBounds(1150.38, 1406.02),
        ),
    ),
)

V6_1 = Round(
    name="v6.1",
    seeds=Seeds(  # mlperf.conf
        qsl=2085463073848966840,
        sample_index=2747215439041700203,
        schedule=16159082839903944936,
    ),
    loadgen_versions=("6.0.16", "6.0.17"),  # read from the releases; 6.0.15 has the seeds of v6.0
    checker_version="v6.1",  # checker
    benchmarks=(GPT_OSS_120B,),
)

ROUNDS = (V6_1,)
"""Newest first."""
BENCHMARK = ROUNDS[0].benchmarks[0]
"""The benchmark that this program runs."""


def find_round(seeds: Seeds) -> Round | None:
    """Return the round with these seeds, or None."""
    return next((entry for entry in ROUNDS if entry.seeds == seeds), None)


def unknown_round(seeds: Seeds) -> str:
    """Return a message that the seeds belong to no known round."""
    known = "; ".join(
        f"{entry.name} has its seeds in mlcommons-loadgen {' and '.join(entry.loadgen_versions)}"
        for entry in ROUNDS
    )
    return f"LoadGen's seeds {', '.join(map(str, seeds))} are those of no known round: {known}"
