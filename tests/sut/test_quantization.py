"""The quantization page of a system, from the engine descriptions in run.json."""

import pytest

from sut.results.submission.quantization import QuantizationError, quantization_page

Record = dict[str, object]
CALIBRATION = "No calibration: the published MXFP4 weights are used as they are."
NO_ENGINE = ("run.json of Offline: no worker describes its engine",)
# As vLLM's worker reports gpt-oss-120b, with values as JSON.
FACTS = {
    "dtype": '"torch.bfloat16"',
    "quantization": '"mxfp4"',
    "kv_cache_dtype": '"auto"',
    "load_format": '"safetensors"',
    "enable_prefix_caching": "false",
}


def record_of(*engines: dict[str, object]) -> Record:
    """Make the part of a run.json that describes engines: one worker with one stream for each."""
    return {"summary": {"workers": [{"stream_infos": [engine]} for engine in engines]}}


def engine_of(moe_backend: str = "auto", **facts: str) -> dict[str, object]:
    """Make the description of a vLLM engine."""
    return {
        "engine": "vllm",
        "engine_version": "0.32.0",
        "model": "openai/gpt-oss-120b",
        "model_hash": "ab12",
        "engine_facts": FACTS | facts,
        "execution_facts": {"moe_backend": f'"{moe_backend}"', "VLLM_USE_FLASHINFER_MOE_MXFP4_BF16": '"1"'},
    }


def page_of(**records: Record) -> list[str]:
    """Compose the page and return its lines."""
    return quantization_page("8xH200", records, CALIBRATION).splitlines()


def test_the_page_names_the_data_types_of_each_scenario() -> None:
    """Weights, activations and KV cache are those of the engine's report, a column for each scenario."""
    fp8 = engine_of("triton", kv_cache_dtype='"fp8"', speculative_config='{"method": "eagle3"}')
    page = page_of(Offline=record_of(engine_of()), Interactive=record_of(fp8))

    assert "# Quantization of 8xH200" == page[0]
    for row in (
        "|  | Offline | Interactive |",
        "| engine | vllm 0.32.0 | vllm 0.32.0 |",
        "| model | openai/gpt-oss-120b | openai/gpt-oss-120b |",
        "| weights: quantization method | mxfp4 | mxfp4 |",
        "| weights that the method leaves alone, and activations | torch.bfloat16 | torch.bfloat16 |",
        "| KV cache | auto: data type of the model | fp8 |",
        "| experts: kernels | auto | triton |",
        "| experts: activations | not reported: vLLM chooses it with the kernels | torch.bfloat16 |",
        "| VLLM_USE_FLASHINFER_MOE_MXFP4_BF16 | 1 | 1 |",
        '| speculative decoding | - | {"method": "eagle3"} |',
    ):
        assert row in page
    assert [CALIBRATION] == page[-1:]


def test_the_page_is_complete() -> None:
    """Every line of a page about two engines, of which one is not vLLM and has other facts."""
    facts = {
        "quantization_config": '{"a": 1}',
        "hf_overrides": '{"b": 2}',
        "calculate_kv_scales": "true",
        "kv_cache_dtype_skip_layers": '["3"]',
    }
    engine = engine_of("marlin", **facts) | {"weights_sha256": "cd34"}
    engine["execution_facts"] = {
        "moe_backend": '"marlin"',
        "VLLM_USE_MXFP6": '"1"',
        "VLLM_FP8": '"2"',
        "VLLM_X_FP4": '"3"',
        "VLLM_QUANT": '"4"',
        "VLLM_HOST_IP": '"5"',
        "SGLANG_FP8": '"6"',
    }
    other = engine_of("auto") | {"engine": "sglang", "engine_version": "0.5.15"}
    other["engine_facts"] = FACTS | {"dtype": '"auto"', "quantization": '"mxfp4"'}
    page = quantization_page(
        "8xH200", {"Offline": record_of(engine), "Server": record_of(other)}, f" {CALIBRATION}\n\n"
    )
    later = "not reported: vLLM chooses it with the kernels"
    assert [
        "# Quantization of 8xH200",
        "",
        "Data types as the engines reported them in the runs of this submission.",
        "",
        "|  | Offline | Server |",
        "| --- | --- | --- |",
        "| engine | vllm 0.32.0 | sglang 0.5.15 |",
        "| model | openai/gpt-oss-120b | openai/gpt-oss-120b |",
        "| hash of the model's files | ab12 | ab12 |",
        "| SHA-256 of all weight files | cd34 | - |",
        "| weights: quantization method | mxfp4 | mxfp4 |",
        "| weights that the method leaves alone, and activations | torch.bfloat16 | auto |",
        "| KV cache | auto: data type of the model | auto: data type of the model |",
        "| weights: load format | safetensors | safetensors |",
        '| changed quantization configuration | {"a": 1} | - |',
        '| changed model configuration | {"b": 2} | - |',
        "| KV cache scales computed at run time | true | - |",
        '| layers without a quantized KV cache | ["3"] | - |',
        "| experts: kernels | marlin | auto |",
        f"| experts: activations | torch.bfloat16 | {later} |",
        "| VLLM_USE_MXFP6 | 1 | - |",
        "| VLLM_FP8 | 2 | - |",
        "| VLLM_X_FP4 | 3 | - |",
        "| VLLM_QUANT | 4 | - |",
        "| VLLM_USE_FLASHINFER_MOE_MXFP4_BF16 | - | 1 |",
        "",
        "## Calibration",
        "",
        CALIBRATION,
        "",
    ] == page.split("\n")


@pytest.mark.parametrize("backend", ["marlin", "triton", "triton_unfused"])
def test_kernels_that_dequantize_the_weights_have_the_models_activations(backend: str) -> None:
    """These multiply in the model's data type; of other kernels vLLM does not tell it."""
    assert "| experts: activations | torch.bfloat16 |" in page_of(Offline=record_of(engine_of(backend)))
    later = "| experts: activations | not reported: vLLM chooses it with the kernels |"
    assert later in page_of(Offline=record_of(engine_of(f"{backend}_x")))


@pytest.mark.parametrize("fact", ["quantization", "dtype", "kv_cache_dtype", "load_format"])
@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_an_engine_with_weights_reports_its_data_types(engine: str, fact: str) -> None:
    """One engine of several that does not report one of them is enough."""
    told = engine_of() | {"engine": engine}
    silent = told | {"engine_facts": {name: value for name, value in FACTS.items() if name != fact}}
    records = {"Offline": record_of(told, silent)}
    with pytest.raises(QuantizationError) as refused:
        quantization_page("8xH200", records, CALIBRATION)
    assert (f"run.json of Offline: an engine does not report {fact}",) == refused.value.missing


def test_workers_that_differ_are_listed_beside_each_other() -> None:
    """A value that is not equal on all workers of a run is listed with every other one, once each."""
    page = page_of(Offline=record_of(engine_of("marlin"), engine_of("triton"), engine_of("marlin")))
    assert "| experts: kernels | marlin / triton |" in page


def test_weights_that_are_not_quantized_are_named_so() -> None:
    """Without a quantization method the page says none, and experts' activations have the model's type."""
    page = page_of(Offline=record_of(engine_of(quantization="null")))
    assert "| weights: quantization method | none |" in page
    assert "| experts: activations | torch.bfloat16 |" in page
    # Only a missing method means that there is none.
    assert "| weights: load format | null |" in page_of(Offline=record_of(engine_of(load_format="null")))


def test_an_engine_without_weights_is_named() -> None:
    """A scripted engine has no data types; the page says so and does not invent them."""
    page = page_of(Offline=record_of({"engine": "replay", "model": "answers.parquet"}))
    assert "| weights: quantization method | none: the engine replay has no weights |" in page
    assert not [line for line in page if line.startswith("| KV cache")]


def test_text_of_a_worker_cannot_break_the_table() -> None:
    """A line break, a column mark or markup in a reported value stays inside its cell."""
    page = page_of(Offline=record_of(engine_of(load_format='"a\\n| b <i>"')))
    assert r"| weights: load format | a?\| b \<i> |" in page


@pytest.mark.parametrize(
    "record, calibration, missing",
    [
        ({}, CALIBRATION, NO_ENGINE),
        ({"summary": None}, CALIBRATION, NO_ENGINE),
        ({"summary": {"workers": "x"}}, CALIBRATION, NO_ENGINE),
        (
            record_of(engine_of()),
            " \n",
            ("calibration: no description; say what was used, or that nothing was",),
        ),
        (record_of(engine_of()), "x" * 100_001, ("calibration: 100001 characters, at most 100000",)),
        (
            record_of(engine_of(), {"engine": "vllm", "engine_facts": {"dtype": "1", "load_format": "1"}}),
            CALIBRATION,
            (
                "run.json of Offline: an engine does not report quantization",
                "run.json of Offline: an engine does not report kv_cache_dtype",
            ),
        ),
    ],
)
def test_a_page_that_would_be_incomplete_is_refused(
    record: Record, calibration: str, missing: tuple[str, ...]
) -> None:
    """A run without engines, an engine without data types and an empty description are named."""
    with pytest.raises(QuantizationError) as refused:
        quantization_page("8xH200", {"Offline": record}, calibration)
    assert missing == refused.value.missing
