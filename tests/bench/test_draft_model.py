"""The draft model of EAGLE3's shape: vLLM reads its configuration and the flags."""

import json
import shlex
from pathlib import Path

import pytest

from bench.gpu.draft_model import draft_shape, main, speculative_flags, write_draft
from bench.gpu.model import write_full_size


def test_the_command_prints_the_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The printed words are the flag and one value; a directory that has files is refused in one line."""
    argv = [str(tmp_path / "new" / "draft"), "--acceptance-length", "2.5"]
    assert 0 == main(argv)
    assert speculative_flags(Path(argv[0]), 2.5) == shlex.split(capsys.readouterr().out)
    assert 2 == main(argv)
    assert "draft is not an empty directory" in capsys.readouterr().out


def test_a_draft_has_the_width_of_another_target(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Width, heads and vocabulary are the target's; gpt-oss-120b's give the head's own shape."""
    tiny = {"num_hidden_layers": 2, "hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    tiny |= {"head_dim": 64, "vocab_size": 4096}
    (tmp_path / "config.json").write_text(json.dumps(tiny))
    assert 0 == main([str(tmp_path / "draft"), "--target", str(tmp_path)])
    draft = json.loads((tmp_path / "draft" / "config.json").read_text())
    assert (128, 768, 4096, 4096) == tuple(
        draft[name] for name in ("hidden_size", "intermediate_size", "vocab_size", "draft_vocab_size")
    )
    assert [0, 1] == draft["eagle_config"]["eagle_aux_hidden_state_layer_ids"]
    write_full_size(tmp_path / "full")
    write_draft(tmp_path / "own")
    full, own = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("full", "own"))
    assert draft_shape(full) | {"eagle_config": 0} == {name: own[name] for name in draft_shape(full)} | {
        "eagle_config": 0
    }
    assert 2 == main([str(tmp_path / "new"), "--target", str(tmp_path / "none")])
    assert "--target" in capsys.readouterr().out


@pytest.mark.vllm
@pytest.mark.long  # vLLM inspects both models in new processes
@pytest.mark.filterwarnings("ignore")  # vLLM's and torch's imports warn
def test_vllm_accepts_the_draft_model_for_gpt_oss(tmp_path: Path) -> None:
    """3 steps with 2.72 tokens per step: 1.72 draft tokens are accepted, the third never."""
    from vllm.config import ModelConfig, ParallelConfig, SpeculativeConfig

    write_full_size(tmp_path / "target")
    write_draft(tmp_path / "draft")
    flag, value = speculative_flags(tmp_path / "draft")
    assert flag == "--speculative-config"
    target = ModelConfig(model=str(tmp_path / "target"), skip_tokenizer_init=True)
    speculative = SpeculativeConfig(
        target_model_config=target, target_parallel_config=ParallelConfig(), **json.loads(value)
    )
    assert ("eagle3", 3) == (speculative.method, speculative.num_speculative_tokens)
    assert speculative.synthetic_acceptance_rates == pytest.approx([1.0, 0.72, 0.0])
    draft = speculative.draft_model_config
    assert (201_088, 2880, 64) == (draft.get_vocab_size(), draft.get_hidden_size(), draft.get_head_size())
    assert (8, 1) == (draft.get_total_num_kv_heads(), draft.hf_config.num_hidden_layers)
    assert draft.hf_config.eagle_config["eagle_aux_hidden_state_layer_ids"] == [1, 17, 32]
