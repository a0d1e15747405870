"""bench.gpu race --profile: the steps of a trace, roles of kernels, what the experts' GEMMs achieve."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.gpu.__main__ import main
from bench.gpu.model import write_full_size
from bench.gpu.race.expert_sizes import ExpertSizes, read_expert_sizes
from bench.gpu.race.kernel_roles import role_of
from bench.gpu.race.profile_files import write_profile
from bench.gpu.race.step_log import StepRecord, spread_by_kind
from bench.gpu.race.step_profile import profile_figures
from bench.gpu.race.step_trace import read_steps
from tests.bench.outliving import run_bench

MATMUL = "_matmul_ogs_NNT_bf16xbf16xmxfp4_16x256x128x1_swiglu"
FLASH = "void cutlass::device_kernel<flash::enable_sm90_or_later<flash::FlashAttnFwdSm90<X> > >(Y)"
GROUPED = (
    "void cutlass::device_kernel<cutlass::gemm::kernel::GemmUniversal<cutlass::gemm::GroupProblemShape>>"
)
# Two experts of a token, of four; 3,200 weights in MXFP4 are 1,700 bytes.
SIZES = ExpertSizes(num_experts=4, num_experts_per_token=2, num_layers=3, weights_per_expert=3200)


def event(cat: str, name: str, begin_us: float, duration_us: float, **args: int) -> dict[str, Any]:
    """Build an event of a trace."""
    times = {"ts": begin_us, "dur": duration_us}
    return {"ph": "X", "cat": cat, "name": name, "pid": 1, "tid": 1, "args": args, **times}


def marks() -> list[dict[str, Any]]:
    """Build the annotations of four steps at 0, 100, 200 and 300 us; the second one prefills 5 tokens."""
    names = ["0(0)_generation_2(2)", "1(5)_generation_2(2)", "0(0)_generation_3(3)", "0(0)_generation_3(3)"]
    return [
        event("user_annotation", f"execute_context_{name}", 100 * step, 50) for step, name in enumerate(names)
    ]


def write_trace(path: Path, events: Sequence[dict[str, Any]]) -> Path:
    """Write a trace as torch's profiler does, with events of other kinds."""
    others = [{"ph": "M", "name": "process_name"}, event("ac2g", "ac2g", 5, 1)]
    path.write_bytes(gzip.compress(json.dumps({"traceEvents": [*others, *marks(), *events]}).encode()))
    return path


@pytest.fixture
def gpu_trace(tmp_path: Path) -> Path:
    """Write a trace in which the GPU is behind the CPU by about 70 us."""
    launched_us = {1: 10, 2: 110, 3: 150, 4: 210, 5: 310}
    launches = [
        event("cuda_runtime" if number % 2 else "cuda_driver", "launch", at_us, 1, correlation=number)
        for number, at_us in launched_us.items()
    ]
    return write_trace(
        tmp_path / "a.pt.trace.json.gz",
        [
            *launches,
            event("kernel", "first", 50, 100, correlation=1),
            # Both are of one CUDA graph.
            event("kernel", MATMUL, 150, 40, correlation=2),
            event("kernel", MATMUL, 200, 40, correlation=2),
            event("kernel", "unseen launch", 240, 10, correlation=99),
            event("gpu_memcpy", "Memcpy DtoH (Device -> Pinned)", 245, 30, correlation=3),
            event("kernel", FLASH, 270, 60, correlation=4),
            event("kernel", "nvjet_tst_64x8", 350, 10, correlation=5),
        ],
    )


def test_a_kernel_belongs_to_the_step_that_launched_it(gpu_trace: Path) -> None:
    """The step of 150 to 270 us has no kernel in 10 of them; a copy that outlasts it counts until its end."""
    with_prefill, without = read_steps(gpu_trace)
    assert (5, 2, 120.0, 110.0) == with_prefill[:4]
    assert [MATMUL, MATMUL, "unseen launch", "Memcpy DtoH (Device -> Pinned)"] == [
        call.name for call in with_prefill.calls
    ]
    assert (0, 3, 80.0, 60.0) == without[:4]
    assert [(FLASH, 60.0)] == without.calls


def test_without_a_gpu_the_operators_take_the_place_of_kernels(tmp_path: Path) -> None:
    """An operator's time is without that of those it calls; busy is the time of the outermost ones."""
    operators = [
        event("cpu_op", name, begin_us, duration_us)
        for step in range(4)
        for name, begin_us, duration_us in (
            ("aten::linear", 100 * step + 10, 60),
            ("aten::addmm", 100 * step + 15, 50),
            ("aten::copy_", 100 * step + 20, 5),
            ("aten::copy_", 100 * step + 65, 5),
        )
    ]
    step, _ = read_steps(write_trace(tmp_path / "a.json.gz", operators))
    assert (100.0, 60.0) == (step.period_us, step.busy_us)
    assert [5.0, 45.0, 5.0, 5.0] == [call.us for call in step.calls]


def test_figures_of_each_kind_of_step(gpu_trace: Path) -> None:
    """7 tokens use 4 x (1 - 0.5^7) of the experts, which are read in the 80 us of both GEMMs."""
    found = profile_figures(read_steps(gpu_trace), SIZES)
    prefill, without = found["with_prefill"], found["without_prefill"]
    assert prefill
    assert without
    assert (120.0, 120.0) == (prefill["step_us"], prefill["kernels_us"])
    assert prefill["idle_share"] == pytest.approx(10 / 120)
    assert {"MoE GEMM": 80.0, "other": 10.0, "copy": 30.0} == {
        role: one["us_per_step"] for role, one in prefill["roles"].items()
    }
    assert (MATMUL, 2.0, 80.0) == tuple(
        prefill["kernels"][0][key] for key in ("name", "calls_per_step", "us_per_step")
    )
    assert prefill["experts"]["gb_per_s"] == pytest.approx(3.96875 * 1700 * 3 / 80 / 1e3)
    assert prefill["experts"]["tflop_per_s"] == pytest.approx(2 * 7 * 2 * 3200 * 3 / 80 / 1e6)
    assert without["experts"] is None


def test_the_experts_of_gpt_oss_120b_are_61_gb(tmp_path: Path) -> None:
    """3 x 2,880 x 2,880 weights of 4.25 bits in 128 experts and 36 layers; one token uses 4 experts."""
    write_full_size(tmp_path / "model")
    sizes = read_expert_sizes(tmp_path / "model")
    assert sizes
    assert 13_219_200 == sizes.bytes_per_expert
    assert sizes.read_bytes(10_000) == pytest.approx(128 * 36 * 13_219_200)
    assert sizes.num_used(1) == pytest.approx(4)


@pytest.mark.parametrize(
    ("name", "role"),
    [
        (MATMUL, "MoE GEMM"),
        ("void marlin_moe_wna16::Marlin<1l, 2l>(int4 const*)", "MoE GEMM"),
        (GROUPED, "MoE GEMM"),
        ("_topk_forward", "routing"),
        ("_combined_routing_compute", "routing"),
        ("void vllm::moe::moe_align_block_size_kernel<int>(int)", "routing"),
        ("void finalizeMoeRoutingKernel<float>(float)", "routing"),
        ("_reduce_grouped", "routing"),
        (FLASH, "attention"),
        ("flash::prepare_varlen_num_blocks_kernel(int)", "attention"),
        ("void vllm::reshape_and_cache_flash_kernel<__nv_bfloat16>(int)", "KV write"),
        ("nvjet_tst_64x8_64x16_4x1_v_bz_TNT", "dense GEMM"),
        ("triton_red_fused__to_copy_add_mean_mul_pow_rsqrt_0", "norm"),
        ("void vllm::swigluoai_and_mul_kernel<float>(float)", "activation"),
        ("_gumbel_sample_kernel", "sampling"),
        ("Memcpy HtoD (Pinned -> Device)", "copy"),
        ("void at::native::elementwise_kernel<128, at::native::direct_copy_kernel_cuda>(int)", "copy"),
        ("triton_poi_fused_add_3", "other"),
    ],
)  # fmt: skip
def test_kernels_have_roles_by_name(name: str, role: str) -> None:
    """Names of vLLM's CUDA build; one that is not known is "other"."""
    assert role == role_of(name)


def test_the_step_log_has_both_kinds() -> None:
    """Steps of 10 ms, and one of 30 ms with which a request began."""
    ends_ms = {0: 0, 10: 0, 40: 7, 50: 0}
    steps = [
        StepRecord(at_ms * 1_000_000, 1, 1, prompt_tokens, 0, 0, 0.5, 9)
        for at_ms, prompt_tokens in ends_ms.items()
    ]
    found = spread_by_kind(steps)
    assert found["without_prefill"]
    assert found["with_prefill"]
    assert (10.0, 30.0) == (found["without_prefill"]["mean"], found["with_prefill"]["mean"])
    assert spread_by_kind(steps[:1])["with_prefill"] is None


def test_files_have_every_kernel_and_the_output_the_longest(gpu_trace: Path, tmp_path: Path) -> None:
    """A trace gets the name of its configuration and number of requests."""
    write_full_size(tmp_path / "model")
    logs = tmp_path / "logs"
    logs.mkdir()
    gpu_trace.rename(logs / gpu_trace.name)
    spread = {"mean": 1.0, "p50": 1.0}
    window = {"rows": 3, "step_ms_without_prefill": spread, "step_ms_with_prefill": None}
    step_ms = {"without_prefill": spread, "with_prefill": spread}
    recording = {"part": "recorded", "rows": 3, "trace": gpu_trace.name, "step_ms": step_ms}
    run = {"name": "a", "failure": None, "windows": [window], "recordings": [recording]}
    printed = write_profile(run, logs, tmp_path, tmp_path / "model")
    assert "a, 3 requests, steps with prefill" in printed
    assert "no kernel in 8.3 % of the time" in printed
    assert MATMUL in printed
    assert "unseen launch" in (tmp_path / "profile-a.txt").read_text()
    document = json.loads((tmp_path / "profile-a.json").read_text())
    assert "logs/a-3.pt.trace.json.gz" == document["profiles"][0]["trace"]
    assert (logs / "a-3.pt.trace.json.gz").exists()


def test_a_trace_without_steps_is_named(tmp_path: Path) -> None:
    """One line says which file it is; nothing is written."""
    (tmp_path / "b.pt.trace.json").write_text('{"traceEvents": []}')
    (tmp_path / "config.json").write_text("{}")
    recording = {"rows": 3, "trace": "b.pt.trace.json", "step_ms": {}}
    window = {"step_ms_without_prefill": None, "step_ms_with_prefill": None}
    run = {"name": "b", "windows": [window], "recordings": [recording]}
    with pytest.raises(RuntimeError, match=r"b: b-3.pt.trace.json has 0 steps and 0 kernels or operators"):
        write_profile(run, tmp_path, tmp_path, tmp_path)
    assert not (tmp_path / "profile-b.json").exists()


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--profile", "x"], "--profile: 'x' is not one of a"),
        (["--profile", "a", "--only", "a"], "--profile: records one configuration: leave --only out"),
        (["--profile", "a", "--profile-steps", "0"], "--profile-steps: 0 is below 1"),
    ],
)
def test_bad_flags_are_one_line(
    argv: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command exits with code 2 before it starts anything."""
    (tmp_path / "race.toml").write_text('[[configuration]]\nname = "a"\nrows = [8]\n')
    journal = tmp_path / "journal"
    asked = ["race", "--journal", str(journal), "--configs", str(tmp_path / "race.toml"), *argv]
    assert 2 == main(asked)
    assert named in capsys.readouterr().out.splitlines()[-1]
    assert not journal.exists()


@pytest.mark.vllm
@pytest.mark.long
def test_steps_are_recorded_over_real_vllm(tmp_path: Path, checkpoint: Path) -> None:
    """On a CPU both kinds of steps have attention and experts; no race is written."""
    race_file = tmp_path / "race.toml"
    race_file.write_text(
        '[flags]\ndtype = "float32"\nkv-cache-memory-bytes = 268435456\nenforce-eager = true\n'
        '[[configuration]]\nname = "a"\nrows = [8, 4]\n'
    )
    argv = ["bench.gpu", "race", "--journal", str(tmp_path), "--configs", str(race_file), "--profile", "a"]
    argv += ["--model", str(checkpoint), "--mean-prompt-len", "60", "--max-prompt-len", "300"]
    argv += [
        "--mean-answer-len",
        "20",
        "--max-answer-len",
        "60",
        "--window-s",
        "0.5",
        "--other-window-s",
        "0.5",
    ]
    done = run_bench([*argv, "--settle-s", "0.2", "--profile-steps", "3"], timeout_s=300)
    assert 0 == done.returncode, done.stdout + done.stderr
    document = json.loads((tmp_path / "profile-a.json").read_text())
    assert [8, 4] == [profile["rows"] for profile in document["profiles"]]
    for profile in document["profiles"]:
        for kind in ("without_prefill", "with_prefill"):
            figures = profile[kind]
            assert {"attention", "MoE GEMM", "dense GEMM"} <= set(figures["roles"])
            assert 0 < figures["kernels_us"] < figures["step_us"]
            assert 0 < figures["idle_share"] < 1
            # The weights are no MXFP4.
            assert figures["experts"] is None
        assert profile["without_prefill"]["prompt_tokens"] == 0 < profile["with_prefill"]["prompt_tokens"]
        assert (tmp_path / profile["trace"]).exists()
    assert not (tmp_path / "journal.json").exists()
