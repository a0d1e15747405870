"""The hash of a checkpoint (model_hash, weight_files): what it notices, and how little it reads."""

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from common.flags import FlagError
from tests.worker.engines.safetensors_files import Shapes, gpt_oss_120b, write_byte, write_sparse
from worker.engines.model import model_hash as model_hash_module
from worker.engines.model.model_hash import ModelHash, Stopped, hash_model
from worker.engines.model.weight_files import PAGE_BYTES, OpenFiles, find_weight_files, read_extents

MIB = 1 << 20
# Each expert's part of "experts" has 3 MiB, "scales" of 1.5 MiB is read whole, a row of "table" has 3 KiB.
SHARDS: dict[str, Shapes] = {
    "model-00001-of-00002.safetensors": {
        "experts": ("U8", (8, 3, MIB)),
        "scales": ("U8", (8, 3, MIB // 16)),
        "norm": ("BF16", (16,)),
    },
    "model-00002-of-00002.safetensors": {
        "other.experts": ("U8", (8, 3, MIB)),
        "other.scales": ("U8", (8, 3, MIB // 16)),
        "table": ("U8", (20 * 1024, 3 * 1024)),
        "empty": ("F32", (0, 4)),
    },
}
FIRST, SECOND = SHARDS
CONFIG = {"architectures": ["GptOssForCausalLM"], "vocab_size": 201_088}


def hash_of(folder: Path, load_format: str = "auto") -> ModelHash:
    """Hash a checkpoint whose weights are beside its configuration."""
    return hash_model(folder, folder, load_format, threading.Event())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write a checkpoint of two shards of zeros, which take no space."""
    found = tmp_path / "checkpoint"
    found.mkdir()
    (found / "config.json").write_text(json.dumps(CONFIG))
    (found / "generation_config.json").write_text('{"eos_token_id": [200012, 199999, 200002]}')
    for name, shapes in SHARDS.items():
        write_sparse(found / name, shapes)
    return found


def write_index(folder: Path, **more: str) -> None:
    """Write the index of the shards, with more tensors by name."""
    listed = {name: shard for shard, shapes in SHARDS.items() for name in shapes}
    index = json.dumps({"metadata": {"total_size": 1}, "weight_map": listed | more})
    (folder / "model.safetensors.index.json").write_text(index)


def test_a_checkpoint_that_lacks_tensors_of_its_index_is_refused(folder: Path) -> None:
    """An engine that leaves quantized weights out never serves them: a shard or a tensor is missing."""
    write_index(folder)
    (folder / "consolidated.safetensors.index.json").write_text('{"weight_map": {"a": "consolidated.1"}}')
    assert hash_of(folder).weight_headers
    write_index(folder, head=SECOND)
    with pytest.raises(FlagError, match=f"lacks 1 of 8 tensors that model.* lists, first head in {SECOND}"):
        hash_of(folder)
    write_index(folder)
    (folder / SECOND).unlink()
    with pytest.raises(FlagError, match=f"lacks 4 of 7 tensors that model.* lists, first empty in {SECOND}"):
        hash_of(folder)
    assert hash_of(folder, "dummy").weight_headers == ""


def swap_shards(folder: Path) -> None:
    """Give each of two shards the other's name."""
    os.rename(folder / FIRST, folder / "x")
    os.rename(folder / SECOND, folder / FIRST)
    os.rename(folder / "x", folder / SECOND)


def change_expert(folder: Path) -> None:
    """Replace the weights of expert 5 of 8: 3 MiB in the middle of one tensor."""
    header_bytes = 8 + int.from_bytes((folder / SECOND).read_bytes()[:8], "little")
    with (folder / SECOND).open("r+b") as file:
        file.seek(header_bytes + 5 * 3 * MIB)
        file.write(b"\x01" * (3 * MIB))


def rename_tensor(folder: Path) -> None:
    """Rename a tensor: its bytes stay."""
    write_sparse(folder / FIRST, {"experts ": ("U8", (8, 3, MIB)), **dict(list(SHARDS[FIRST].items())[1:])})


def reshape_tensor(folder: Path) -> None:
    """Give a tensor another shape of the same size."""
    write_sparse(folder / FIRST, {**SHARDS[FIRST], "experts": ("U8", (3, 8, MIB))})


def byte(name: str, index: int) -> Callable[[Path], None]:
    """Make a change of one byte of a tensor."""
    shard = next(shard for shard, shapes in SHARDS.items() if name in shapes)
    return lambda folder: write_byte(folder / shard, SHARDS[shard], name, index, 1)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (swap_shards, {"weight_headers", "weight_content"}),
        (change_expert, {"weight_content"}),
        (rename_tensor, {"weight_headers", "weight_content"}),
        (reshape_tensor, {"weight_headers", "weight_content"}),
        (byte("experts", 0), {"weight_content"}),
        (byte("experts", 24 * MIB - 1), {"weight_content"}),
        # The first and the last byte of expert 3, which lie side by side with other experts' bytes.
        (byte("experts", 9 * MIB), {"weight_content"}),
        (byte("experts", 12 * MIB - 1), {"weight_content"}),
        (byte("scales", 777_777), {"weight_content"}),
        (byte("norm", 31), {"weight_content"}),
        (
            lambda folder: (folder / "config.json").write_text(json.dumps({**CONFIG, "x": 1})),
            {"config_files"},
        ),
        (lambda folder: (folder / "generation_config.json").unlink(), {"config_files"}),
        (write_index, {"config_files"}),
        (lambda folder: (folder / "modeling_gpt.py").write_text("x = 1"), {"config_files"}),
    ],
)
def test_every_part_of_a_checkpoint_is_noticed(
    folder: Path, change: Callable[[Path], None], parts: set[str]
) -> None:
    """A change of any kind changes the model hash, and the facts name the part."""
    before = hash_of(folder)
    change(folder)
    after = hash_of(folder)
    assert before.model_hash != after.model_hash
    differing = {name for name, value in before.facts.items() if after.facts[name] != value}
    # A renamed or reshaped tensor of zeros has the same content: its name and shape are in the headers.
    assert {f"{part}_hash" for part in parts} >= differing
    assert differing


def test_every_expert_is_read(folder: Path) -> None:
    """Whichever of the 8 experts is replaced, the hash changes; so does each row of 16 MiB of a matrix."""
    hashes = {hash_of(folder).model_hash}
    for expert in range(8):
        for offset in range(0, 3 * MIB, PAGE_BYTES):
            write_byte(folder / FIRST, SHARDS[FIRST], "experts", expert * 3 * MIB + offset, 1 + expert)
        hashes.add(hash_of(folder).model_hash)
    assert 1 + 8 == len(hashes)


def test_equal_checkpoints_have_equal_hashes(folder: Path, tmp_path: Path) -> None:
    """The same files elsewhere, by links, and with files that decide nothing, have the same hash."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).symlink_to(path)
    (copy / "README.md").write_text("x")
    (copy / "tokenizer.json").write_text("{}")
    (copy / "training_args.bin").write_bytes(b"x")
    assert hash_of(folder) == hash_of(copy)


def test_random_weights_are_not_read(folder: Path) -> None:
    """Load format "dummy": only the configuration counts, and there need be no weights."""
    before = hash_of(folder, "dummy")
    assert {"config_files_hash"} == set(before.facts)
    assert before.model_hash != hash_of(folder).model_hash
    (folder / FIRST).unlink()
    (folder / SECOND).unlink()
    assert before == hash_of(folder, "dummy")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.gguf", "model.ckpt"])
def test_weights_in_other_formats_are_sampled_by_file(folder: Path, name: str) -> None:
    """A change in any 16 MiB of a file of another format, of its first or of its last byte is noticed."""
    (folder / FIRST).unlink()
    (folder / SECOND).unlink()
    path = folder / name
    path.touch()
    os.truncate(path, 40 * MIB)
    hashes = [hash_of(folder).model_hash]
    for index in (0, 40 * MIB - 1):
        with path.open("r+b") as file:
            file.seek(index)
            file.write(b"\x01")
        hashes.append(hash_of(folder).model_hash)
    with path.open("r+b") as file:
        file.seek(15 * MIB)
        file.write(b"\x01" * (12 * MIB))
    hashes.append(hash_of(folder).model_hash)
    assert 4 == len(set(hashes))


def test_the_load_format_chooses_the_files(folder: Path) -> None:
    """Beside safetensors, other weights count only in load formats that may load them."""
    (folder / "model.pt").write_bytes(b"x" * 10)
    assert [FIRST, SECOND] == [path.name for path in find_weight_files(folder, "auto")]
    assert [FIRST, SECOND, "model.pt"] == [path.name for path in find_weight_files(folder, "pt")]


def test_a_checkpoint_without_weights_is_refused(folder: Path) -> None:
    """Weights that are not there cannot be compared: one line that names the directory."""
    (folder / FIRST).unlink()
    (folder / SECOND).unlink()
    with pytest.raises(ValueError, match=f"^--model: no weights in {folder}: no file ends in .safetensors, "):
        hash_of(folder)


HUGE = (1 << 40).to_bytes(8, "little")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 8,
        HUGE + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (2).to_bytes(8, "little") + b"{x",
        (14).to_bytes(8, "little") + b'{"tensor": {}}',
        (75).to_bytes(8, "little")
        + b'{"t": {"dtype": "U8", "shape": [9], "data_offsets": [0, 9]}, "u": {}, "v":1}',
        (60).to_bytes(8, "little")
        + b'{"t": {"dtype": "U8", "shape": [9], "data_offsets": [0, 9]}}'
        + b"8 bytes.",
        (61).to_bytes(8, "little")
        + b'{"t": {"dtype": "U8", "shape": [9], "data_offsets": [-1, 8]}}'
        + b"8 bytes.",
        (8000).to_bytes(8, "little") + b"[" * 8000,
    ],
)
def test_a_malformed_file_is_named(folder: Path, content: bytes) -> None:
    """A file that is cut short, or no safetensors file, is refused in one line that names it."""
    (folder / FIRST).write_bytes(content)
    with pytest.raises(ValueError, match=rf"^--model: {folder / FIRST} is no complete safetensors") as caught:
        hash_of(folder)
    assert len(str(caught.value)) < 400


def test_a_read_that_fails_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that becomes shorter while it is read ends the hash with one line."""

    def cut(_: OpenFiles, path: Path, *__: int) -> bytes:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(OpenFiles, "read", cut)
    with pytest.raises(ValueError, match=r"^--model: cannot read the weights .*Input/output error"):
        hash_of(folder)


def test_hashing_can_be_stopped(folder: Path) -> None:
    """A worker that stops while it hashes does not wait for the rest."""
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        hash_model(folder, folder, "auto", stop)


def test_pages_do_not_depend_on_the_machine(folder: Path) -> None:
    """The pages to read follow from tensor names and sizes alone; these are the first of one tensor."""
    extent = next(item for item in read_extents(folder / FIRST) if item.name == "experts")
    reads = [(start - extent.start, length) for start, length in extent.reads()]
    # 8 experts: 1 first page, 7 borders of two pages, 1 last page, and two pages in each expert.
    assert (0, PAGE_BYTES) == reads[0]
    assert (24 * MIB - PAGE_BYTES, PAGE_BYTES) == reads[-1]
    borders = [(expert * 3 * MIB - PAGE_BYTES, 2 * PAGE_BYTES) for expert in range(1, 8)]
    assert [read for read in reads if read in borders] == borders
    assert 1 + 7 + 1 + 2 * 8 == len(reads)
    assert reads == sorted(reads)
    assert all(
        end <= start for (_, end), (start, _) in zip(((s, s + n) for s, n in reads), reads[1:], strict=False)
    )


def test_reading_gpt_oss_120b_is_bounded(tmp_path: Path) -> None:
    """Of the 65.2 GB of gpt-oss-120b less than 415 MB are read, in at most 57,051 reads.

    Each of 36 layers: four tensors of 128 experts with 1 + 127 + 1 + 2 * 128 = 385 reads, two matrices of
    23.6 MB with 7, two of 2.9 MB with 4 and 11 small tensors with 1; embedding and output matrix of 1.158 GB
    in 70 pieces: 1 + 69 + 1 + 2 * 70 = 211 each; the last norm 1. Random pages beside others save reads.
    """
    path = tmp_path / "model.safetensors"
    write_sparse(path, gpt_oss_120b(range(36), first=True, last=True))
    assert 65.2e9 < path.stat().st_size < 65.3e9
    reads = [read for extent in read_extents(path) for read in extent.reads()]
    assert 36 * (4 * 385 + 2 * 7 + 2 * 4 + 11) + 2 * 211 + 1 == 57_051
    assert 55_000 < len(reads) <= 57_051
    # 36 * 4 * 128 experts with four pages each are 302 MB; biases and routers of 36 layers are 106 MB.
    assert 400e6 < sum(length for _, length in reads) < 415e6


def test_all_tensors_of_one_model_are_hashed_by_a_bounded_number_of_threads(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most NUM_THREADS reads are in flight, whatever the number of tensors."""
    monkeypatch.setattr(model_hash_module, "NUM_THREADS", 2)
    running, most, lock = 0, 0, threading.Lock()
    read = OpenFiles.read

    def counted(self: OpenFiles, path: Path, start: int, length: int) -> bytes:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        try:
            return read(self, path, start, length)
        finally:
            with lock:
                running -= 1

    monkeypatch.setattr(OpenFiles, "read", counted)
    hash_of(folder)
    assert most <= 2
