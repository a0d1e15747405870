"""Who gets which accelerators and cores: R x T on a machine written down by hand."""

import pytest

from worker.config import EngineKind, WorkerConfig
from worker.machine.cores import format_cores, parse_cores
from worker.machine.gpus import Device
from worker.node import node
from worker.node.placement import Share, Size, place, read_size, split

# Two NUMA nodes of 8 cores, four accelerators near each.
NUMA_0, NUMA_1 = tuple(range(8)), tuple(range(8, 16))
EIGHT = [Device(str(index), NUMA_0 if index < 4 else NUMA_1) for index in range(8)]
ALL_CORES = [*NUMA_0, *NUMA_1]


def test_eight_replicas_of_one_get_an_accelerator_and_a_part_of_its_numa_node() -> None:
    """R=8 T=1: 8 cores of a NUMA node are 2 for each of its four."""
    shares = place(8, Size(1, 1), EIGHT, ALL_CORES)
    assert [(str(index),) for index in range(8)] == [share.devices for share in shares]
    assert [(2 * index, 2 * index + 1) for index in range(8)] == [share.cores for share in shares]


@pytest.mark.parametrize("engine", list(EngineKind))
def test_each_engine_with_a_model_gets_accelerators(
    monkeypatch: pytest.MonkeyPatch, engine: EngineKind
) -> None:
    """R=2 on two accelerators: vLLM and SGLang get one each, so that no replica uses all; the others none."""
    monkeypatch.setattr(node, "visible_devices", lambda: [Device("0", ()), Device("1", ())])
    shares = node.divide(WorkerConfig(engine=engine, replicas=2), [])
    expected = [("0",), ("1",)] if engine in ("vllm", "sglang") else [(), ()]
    assert expected == [share.devices for share in shares]


def test_two_replicas_of_four_stay_within_a_numa_node() -> None:
    """R=2 T=4: neighbours together, each with the cores of its own side."""
    assert [Share(("0", "1", "2", "3"), NUMA_0), Share(("4", "5", "6", "7"), NUMA_1)] == place(
        2, Size(4, 1), EIGHT, ALL_CORES
    )


def test_a_replica_across_both_numa_nodes_gets_cores_of_both() -> None:
    """R=2 T=3: the second has accelerators 3, 4 and 5; 0 to 2 and 6, 7 are near one side alone."""
    first, second = place(2, Size(3, 1), EIGHT, ALL_CORES)
    assert Share(("0", "1", "2"), NUMA_0) == first
    assert Share(("3", "4", "5"), (*NUMA_0, *NUMA_1)) == second


def test_without_a_size_accelerators_are_divided_evenly() -> None:
    """R=3 of eight: two each, as none may have more than another."""
    assert [("0", "1"), ("2", "3"), ("4", "5")] == [
        share.devices for share in place(3, Size(None, 1), EIGHT, ALL_CORES)
    ]


def test_pipeline_ranks_count_too() -> None:
    """T=2 P=2 are four accelerators; two of it are eight, three are too many."""
    assert [4, 4] == [len(share.devices) for share in place(2, Size(2, 2), EIGHT, ALL_CORES)]
    with pytest.raises(ValueError, match="--replicas: 3 of 4 ranks each need 12 accelerators, 8 are visible"):
        place(3, Size(2, 2), EIGHT, ALL_CORES)


def test_only_cores_that_the_node_may_use_are_given() -> None:
    """A node on cores 2 to 5 gives these, not the NUMA node's others; none near: all it has."""
    assert [(2, 3), (4, 5)] == [share.cores for share in place(2, Size(1, 1), EIGHT[:2], [2, 3, 4, 5])]
    assert [(9, 10), (11, 12)] == [share.cores for share in place(2, Size(1, 1), EIGHT[:2], [9, 10, 11, 12])]


def test_where_the_machine_does_not_tell_cores_are_divided() -> None:
    """Accelerators without a NUMA node: the node's cores in equal runs."""
    devices = [Device("GPU-a", ()), Device("GPU-b", ())]
    assert [Share(("GPU-a",), (0, 1)), Share(("GPU-b",), (2, 3))] == place(
        2, Size(1, 1), devices, [0, 1, 2, 3]
    )


def test_without_accelerators_a_rank_needs_a_core() -> None:
    """Five cores for two replicas of two ranks: 2 and 3; for three they do not suffice."""
    assert [Share((), (0, 1)), Share((), (2, 3, 4))] == place(2, Size(2, 1), [], [0, 1, 2, 3, 4])
    with pytest.raises(ValueError, match="--replicas: 3 of 2 ranks each on 5 cores"):
        place(3, Size(2, 1), [], [0, 1, 2, 3, 4])


def test_fewer_cores_than_replicas_are_for_all() -> None:
    """Two cores among three replicas without a model: nobody is kept to any."""
    assert [(), (), ()] == split([0, 1], 3)


@pytest.mark.parametrize(
    ("words", "size"),
    [
        ("", Size(None, 1)),
        ("--max-num-seqs 8 --tensor-parallel-size 4 -pp 2", Size(4, 2)),
        ("-tp 2 --pipeline_parallel_size=3 --no-async-scheduling", Size(2, 3)),
        ("--tensor_parallel_size=2 --tensor-parallel-size 8", Size(8, 1)),
    ],
)
def test_size_is_read_as_vllm_reads_it(words: str, size: Size) -> None:
    """Spellings of vLLM, the last one counts; other flags are left alone."""
    assert size == read_size(words.split())


@pytest.mark.parametrize("words", ["--tensor-parallel-size 0", "-tp many", "-pp -1", "--nnodes 2", "-n 2"])
def test_a_bad_size_is_named(words: str) -> None:
    """Flag and value, before anything starts."""
    flag, value = words.split()
    with pytest.raises(ValueError, match=rf"{flag}.*{value}"):
        read_size(words.split())


def test_cores_are_written_as_taskset_takes_them() -> None:
    """Runs are joined, and what was written is read back."""
    assert "0-2,5,7-8" == format_cores((0, 1, 2, 5, 7, 8))
    assert (0, 1, 2, 5, 7, 8) == parse_cores("0-2,5,7-8")
    assert (1, 2, 3) == parse_cores("3,1-2")
    for text in ("", "a", "1-", "-1", "1,,2", "1-2-3", "5-3"):
        with pytest.raises(ValueError, match="is not a list of cores"):
            parse_cores(text)
