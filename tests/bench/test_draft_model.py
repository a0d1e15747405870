"""The draft model of EAGLE3's shape: vLLM reads its configuration and the flags."""

import json
import shlex
from pathlib import Path

import pytest

from bench.gpu.draft_model import main, speculative_flags, write_draft
from bench.gpu.model import write_full_size


def test_the_command_prints_the_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The printed words are the flag and one value; a directory that has files is refused in one line."""
    argv = [str(tmp_path / "new" / "draft"), "--acceptance-length", "2.5"]
    assert 0 == main(argv)
    assert speculative_flags(Path(argv[0]), 2.5) == shlex.split(capsys.readouterr().out)
    assert 2 == main(argv)
    assert "draft is not an empty directory" in capsys.readouterr().out


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
