"""Reading a checkpoint's JSON files (worker.engines.model.checkpoint)."""

import json
import re
from pathlib import Path

import pytest

from worker.engines.model.checkpoint import (
    ModelLimits,
    check_download,
    find_checkpoint,
    find_weights,
    read_limits,
    stop_token_ids,
)

# gpt-oss-120b's own numbers.
CONFIG = {
    "eos_token_id": 200002,
    "vocab_size": 201088,
    "max_position_embeddings": 131072,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Write a checkpoint of two files and one weight file of 10 bytes."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [200012, 199999, 200002]}')
    (tmp_path / "model-00001.safetensors").write_bytes(b"0123456789")
    return tmp_path


def write_config(checkpoint: Path, **changes: object) -> None:
    """Replace config.json by CONFIG with some values changed."""
    (checkpoint / "config.json").write_text(json.dumps({**CONFIG, **changes}))


def test_stop_ids_of_both_files_are_joined_ascending(checkpoint: Path) -> None:
    """gpt-oss stops at 199999, 200002 and 200012."""
    assert stop_token_ids(checkpoint) == (199999, 200002, 200012)


def test_one_file_is_enough_for_stop_ids(checkpoint: Path) -> None:
    """A checkpoint without generation_config.json stops at the id of config.json."""
    (checkpoint / "generation_config.json").unlink()
    assert stop_token_ids(checkpoint) == (200002,)


def test_config_without_eos_leaves_the_generation_config(checkpoint: Path) -> None:
    """A null eos_token_id in config.json leaves the ids of generation_config.json."""
    write_config(checkpoint, eos_token_id=None)
    assert stop_token_ids(checkpoint) == (199999, 200002, 200012)


def test_another_generation_config_replaces_the_checkpoints(checkpoint: Path, tmp_path: Path) -> None:
    """A given generation config is read instead of the checkpoint's own."""
    other = tmp_path / "other.json"
    other.write_text('{"eos_token_id": 7}')
    assert stop_token_ids(checkpoint, other) == (7, 200002)


def test_another_generation_config_must_exist(checkpoint: Path, tmp_path: Path) -> None:
    """A given generation config that does not exist is an error."""
    with pytest.raises(ValueError, match=r"^--model .*/none\.json: No such file"):
        stop_token_ids(checkpoint, tmp_path / "none.json")


def test_model_without_stop_ids_is_refused(checkpoint: Path) -> None:
    """Without any stop id every answer would run to its budget."""
    write_config(checkpoint, eos_token_id=None)
    (checkpoint / "generation_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"^--model: no stop ids: .* would never stop$"):
        stop_token_ids(checkpoint)


@pytest.mark.parametrize("eos", ["200002", [200002, "x"], 1.5, True, -1])
def test_stop_id_that_is_no_id_is_refused(checkpoint: Path, eos: object) -> None:
    """An eos_token_id that is neither an id nor a list of ids is refused, and the message quotes it."""
    write_config(checkpoint, eos_token_id=eos)
    with pytest.raises(ValueError, match=r"config\.json: eos_token_id is "):
        stop_token_ids(checkpoint)


@pytest.mark.parametrize("eos", [201088, [200002, 201088], 1 << 32])
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_stop_id_beyond_the_vocabulary_is_refused(checkpoint: Path, name: str, eos: object) -> None:
    """The vocabulary's 201,088 ids are 0 to 201,087; the line names the file, the ids and the size."""
    (checkpoint / name).write_text(json.dumps({**CONFIG, "eos_token_id": eos}))
    reason = f"{name}: eos_token_id is {eos}, not token ids below the vocab_size 201088"
    with pytest.raises(ValueError, match=re.escape(reason)):
        stop_token_ids(checkpoint)


def test_last_id_of_the_vocabulary_may_be_a_stop_id(checkpoint: Path) -> None:
    """201,087 is an id."""
    write_config(checkpoint, eos_token_id=201087)
    assert 201087 in stop_token_ids(checkpoint)


def test_limits_are_the_configs(checkpoint: Path) -> None:
    """The four sizes come from config.json."""
    expected = ModelLimits(
        vocab_size=201088, max_position_embeddings=131072, num_attention_heads=64, num_key_value_heads=8
    )
    assert read_limits(checkpoint) == expected


def test_model_without_grouped_heads_has_as_many_key_value_heads(checkpoint: Path) -> None:
    """Without num_key_value_heads each of the 64 heads has its own keys."""
    (checkpoint / "config.json").write_text(
        json.dumps({name: size for name, size in CONFIG.items() if name != "num_key_value_heads"})
    )
    assert read_limits(checkpoint).num_key_value_heads == 64


@pytest.mark.parametrize("size", [None, 0, "many"])
def test_missing_size_is_named(checkpoint: Path, size: object) -> None:
    """A config.json without a usable vocabulary size is refused by name."""
    write_config(checkpoint, vocab_size=size)
    with pytest.raises(ValueError, match=r"^--model: .*config\.json: vocab_size is "):
        read_limits(checkpoint)


@pytest.mark.parametrize(
    ("content", "message"), [("{", "is not JSON"), ("[]", "holds a list"), (b"\xff", "is not JSON")]
)
def test_broken_config_is_named(checkpoint: Path, content: str | bytes, message: str) -> None:
    """A config.json that is no JSON object is refused by path."""
    (checkpoint / "config.json").write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ValueError, match=rf"^--model .*config\.json: {message}"):
        read_limits(checkpoint)


def test_directory_is_its_own_checkpoint(checkpoint: Path) -> None:
    """A model that is a directory needs no Hugging Face cache."""
    assert find_checkpoint(str(checkpoint)) == checkpoint


@pytest.mark.parametrize("model", ["/no/such/model", "./model", "../model", "a/b/c", "model/", ""])
def test_path_that_is_no_directory_is_refused(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A string that can only be a path and does not exist is refused by name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=rf"^--model: no directory {model}"):
        find_checkpoint(model)


@pytest.mark.filterwarnings("ignore")  # huggingface_hub's import
def test_name_outside_the_cache_is_not_found(tmp_path: Path) -> None:
    """A Hugging Face name that is not in the cache has no directory yet."""
    pytest.importorskip("huggingface_hub")
    assert find_checkpoint("openai/gpt-oss-120b", cache_dir=str(tmp_path)) is None


@pytest.mark.filterwarnings("ignore")  # huggingface_hub's import
def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A file is in the place of the cache directory: the message names the cache that cannot be written."""
    (tmp_path / "cache").touch()
    check_download("openai/gpt-oss-120b", str(tmp_path / "new" / "hub"))
    with pytest.raises(ValueError, match=f"openai/gpt-oss-120b .* {tmp_path}/cache/hub cannot be written"):
        check_download("openai/gpt-oss-120b", str(tmp_path / "cache" / "hub"))


def test_a_model_that_may_not_be_downloaded_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With HF_HUB_OFFLINE a model that is not cached is refused by name."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"openai/gpt-oss-120b is not in the .* HF_HUB_OFFLINE is set"):
        check_download("openai/gpt-oss-120b", str(tmp_path))


COMMIT = "b5c939de8f754692c1647ca79fbf85e8c1e70f8a"


def write_snapshot(cache: Path, *names: str) -> Path:
    """Write a cache's snapshot of gpt-oss-120b with these files in it, empty."""
    entry = cache / "models--openai--gpt-oss-120b"
    snapshot = entry / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (entry / "refs").mkdir()
    (entry / "refs" / "main").write_text(COMMIT)
    for name in names:
        (snapshot / name).touch()
    return snapshot


def test_name_in_the_cache_is_its_snapshot(tmp_path: Path) -> None:
    """A Hugging Face name is its snapshot directory, by branch or by commit."""
    pytest.importorskip("huggingface_hub")
    snapshot = write_snapshot(tmp_path, "config.json")
    for revision in (None, "main", COMMIT):
        place = "openai/gpt-oss-120b", revision, str(tmp_path)
        assert (snapshot, snapshot) == (find_checkpoint(*place), find_weights(*place))


def test_weights_may_lie_apart_from_the_configuration(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With --download-dir vLLM puts weights and their index there, and config.json into the default cache."""
    pytest.importorskip("huggingface_hub")
    cache, download_dir = tmp_path / "hub", tmp_path / "weights"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    place = "openai/gpt-oss-120b", None, str(download_dir)
    weights = write_snapshot(download_dir, "model.safetensors", "model.safetensors.index.json")
    assert (None, weights) == (find_checkpoint(*place), find_weights(*place))
    checkpoint = write_snapshot(cache, "config.json")
    assert (checkpoint, weights) == (find_checkpoint(*place), find_weights(*place))
    # Offline, vLLM serves the default cache's snapshot, whatever lies in the other.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert checkpoint == find_weights(*place)
