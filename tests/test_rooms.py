"""Who imports whom, and what each process starts without."""

import ast
import sys
import tomllib

import pytest

from tests.forked import completed_command
from tests.sources import ROOMS, ROOT, imports_of, modules, own_imports, path_of, tree_of

OTHERS = {"vllm", "sglang", "torch", "mlperf_loadgen"}
# What a room never imports.
BANNED = {
    "protos": {"common", "worker", "coordinator", "sut", "tokenfleet"} | OTHERS,
    "common": {"protos", "worker", "coordinator", "sut", "tokenfleet"} | OTHERS,
    "worker": {"coordinator", "sut", "tokenfleet", "mlperf_loadgen"},
    "sut": {"grpc", "grpc_health", "grpc_reflection", "vllm", "torch"}
    | {"protos", "worker", "coordinator", "tokenfleet"},
    "coordinator": {"worker", "tokenfleet"} | OTHERS,
    "tokenfleet": OTHERS,
}
# What a folder may import of its own room, besides itself. Modules of the room itself may import all of it.
MAY_IMPORT = {
    "coordinator.transport": set(),
    "coordinator.scheduling": {"coordinator.config", "coordinator.transport"},
    "coordinator.recording": {
        *("coordinator.config", "coordinator.transport", "coordinator.scheduling"),
    },
    # The capacity check times the request table.
    "coordinator.doctor": {
        *("coordinator.config", "coordinator.inputs", "coordinator.transport"),
        *("coordinator.scheduling.request_table", "coordinator.scheduling.request_columns"),
        "coordinator.pre_run_checks",
    },
    "sut.results": {"sut.settings", "sut.benchmark", "sut.log_files", "sut.loadgen_conf"},
    "sut.results.accuracy": {"sut.benchmark", "sut.log_files", "sut.results.code_grading"},
    "sut.results.code_grading": set(),
    "sut.results.timing": {
        *("sut.log_files", "sut.settings", "sut.results.loadgen_figures", "sut.results.logs"),
    },
    "sut.results.submission": {"sut.settings", "sut.benchmark", "sut.log_files", "sut.results"},
    "sut.results.comparison": {
        *("sut.settings", "sut.loadgen_conf", "sut.log_files", "sut.results.verdict"),
        *("sut.results.recorded_workers", "sut.results.timing.requests_file"),
        *("sut.results.report.markup", "sut.results.report.page_frame"),
    },
    "tokenfleet.plan": {"tokenfleet.child", "tokenfleet.log_tail"},
    "tokenfleet.network": {"tokenfleet.engine_program"},
    "sut.results.report": {"sut.settings", "sut.benchmark", "sut.log_files", "sut.results"},
    "sut.results.compliance": {
        *("sut.benchmark", "sut.log_files", "sut.results.accuracy", "sut.results.verdict"),
    },
    "tokenfleet.spans": set(),
    "tokenfleet.qualify": {"tokenfleet.child", "tokenfleet.engine_program", "tokenfleet.log_tail"},
    "worker.machine": set(),
    "worker.node": {
        *("worker.auth", "worker.config", "worker.engine_protocol", "worker.listener", "worker.machine"),
        *("worker.metrics_export", "worker.worker_metrics"),
    },
    "worker.engines.scripted": {"worker.config", "worker.engine_protocol"},
    "worker.engines.model": {"worker.engine_protocol", "worker.machine"},
    **{
        f"worker.engines.{name}": {
            *("worker.config", "worker.engine_protocol", "worker.engines.model", "worker.machine"),
        }
        for name in ("sglang", "vllm")
    },
    "tokenfleet.campaign": {
        *("tokenfleet.child", "tokenfleet.left_runs", "tokenfleet.log_tail", "tokenfleet.resumable_program"),
    },
    "tokenfleet.find_qps": {
        *("tokenfleet.child", "tokenfleet.left_runs", "tokenfleet.log_tail", "tokenfleet.resumable_program"),
    },
}


def importers_of(*packages: str) -> set[str]:
    """List the product's modules, as paths, that import one of the packages."""
    return {
        path_of(path)
        for path in modules()
        if {name.split(".")[0] for name in imports_of(path)} & set(packages)
    }


def is_in(module: str, package: str) -> bool:
    """Whether a module is a package or lies in it."""
    return f"{module}.".startswith(f"{package}.")


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_the_rooms_it_may(room: str) -> None:
    """No module of a room imports, even inside a function, a package that the table bans for the room."""
    found = importers_of(*BANNED[room])
    assert set() == {path for path in found if path.startswith(f"{room}/")}


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_a_folder_imports_only_what_lies_below_it(folder: str) -> None:
    """No module of a folder imports, even inside a function, a module of its room that the table omits."""
    allowed = {folder, *MAY_IMPORT[folder]}
    room = folder.partition(".")[0]
    found = {
        f"{module} imports {other}"
        for module, others in own_imports().items()
        if is_in(module, folder)
        for other in others
        if is_in(other, room) and other != room and not any(is_in(other, package) for package in allowed)
    }
    assert set() == found


def test_every_folder_has_its_line_in_the_table() -> None:
    """Each folder inside a room, but worker.engines that only holds others, is in the table above."""
    folders = {
        path_of(path.parent).replace("/", ".")
        for path in modules()
        if path.parent.parent not in (ROOT, ROOT.parent)
    }
    assert set(MAY_IMPORT) == folders - {"worker.engines"}


def test_loadgen_and_each_engine_are_imported_in_one_place() -> None:
    """mlperf_loadgen is imported by sut/loadgen.py alone, an engine's packages by its folder alone.

    The random weights of both engines, and vLLM's folder, import torch.
    """
    assert {"sut/loadgen.py"} == importers_of("mlperf_loadgen")
    assert all(path.startswith("worker/engines/sglang/") for path in importers_of("sglang", "zmq"))
    assert all(path.startswith("worker/engines/vllm/") for path in importers_of("vllm"))
    elsewhere = {path for path in importers_of("torch") if not path.startswith("worker/engines/vllm/")}
    assert {"worker/engines/model/random_weights.py", "worker/engines/sglang/dummy_loader.py"} == elsewhere


def test_no_module_imports_by_a_computed_name() -> None:
    """No module imports by a name that the tests above would miss."""
    computed = {
        path_of(path)
        for path in modules()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Name | ast.Attribute)
        and getattr(node, "id", getattr(node, "attr", "")) in ("__import__", "import_module")
    }
    assert computed == set()


def test_modules_form_no_cycle() -> None:
    """No module of the product imports itself through others, in any room, also not inside a function."""
    assert {} == _in_cycles(own_imports())


def test_folders_form_no_cycle() -> None:
    """No folder of the product imports a module that imports the folder, also not through others."""
    imports: dict[str, set[str]] = {}
    for module, others in own_imports().items():
        place = _place(module)
        imports.setdefault(place, set()).update({_place(other) for other in others} - {place})
    assert {} == _in_cycles(imports)


def _place(module: str) -> str:
    """Return the folder that holds a module, or a module of the room itself."""
    return max((folder for folder in MAY_IMPORT if is_in(module, folder)), key=len, default=module)


def _in_cycles(imports: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return what is left after removing, again and again, what imports nothing that is left."""
    left = imports
    while free := {name for name, others in left.items() if not others}:
        left = {name: others - free for name, others in left.items() if name not in free}
    return left


# Raises for the packages named in argv[2:], as on a machine that lacks them, then imports argv[1].
WITHOUT = """
import importlib, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in sys.argv[2:]:
            raise ModuleNotFoundError(f"No module named {name!r}: blocked by the test")
sys.meta_path.insert(0, Blocker())
importlib.import_module(sys.argv[1])
print("imported")
"""


@pytest.mark.parametrize(
    "module, absent",
    [
        (
            "coordinator.__main__",
            ["vllm", "torch", "worker", "transformers", "pandas", "rich", "prometheus_client"],
        ),
        # The reader of a data set's file starts in a fraction of pandas' import time.
        ("sut.dataset_file", ["pandas", "pyarrow.parquet", "grpc", "coordinator", "mlperf_loadgen"]),
        ("coordinator.recording.metrics_process", ["numpy", "pandas", "google", "sut", "mlperf_loadgen"]),
        ("sut.pickled_frame", ["pandas", "pyarrow", "grpc", "coordinator", "mlperf_loadgen"]),
        (
            "worker.__main__",
            [
                *("vllm", "torch", "coordinator", "sut", "mlperf_loadgen", "pandas", "pyarrow"),
                *("transformers", "prometheus_client"),
            ],
        ),
        ("worker.engines.scripted.counting", ["vllm", "torch", "coordinator", "sut", "mlperf_loadgen"]),
        ("worker.engines.scripted.simulated", ["vllm", "torch", "coordinator", "sut", "mlperf_loadgen"]),
        ("sut.sut", ["grpc", "google", "vllm", "torch", "protos", "worker", "coordinator"]),
        (
            "sut.results.verdict",
            ["grpc", "vllm", "torch", "protos", "worker", "coordinator", "mlperf_loadgen"],
        ),
        (
            "sut.results.comparison.compare_command",
            ["grpc", "vllm", "torch", "matplotlib", "pandas", "mlperf_loadgen", "coordinator"],
        ),
        (
            "sut.results.accuracy.__main__",
            ["grpc", "vllm", "torch", "transformers", "pandas", "mlperf_loadgen", "openai_harmony"],
        ),
        ("protos.columns", ["grpc", "vllm", "torch", "worker", "coordinator", "sut", "mlperf_loadgen"]),
    ],
)
def test_a_process_starts_without_what_it_does_not_need(module: str, absent: list[str]) -> None:
    """Each process imports on a machine where the other side's packages are not installed."""
    done = completed_command([sys.executable, "-c", WITHOUT, module, *absent])
    assert (done.returncode, done.stdout) == (0, "imported\n"), done.stderr


def test_the_blocker_blocks() -> None:
    """The import blocker of the test above fails a module that does need what is absent."""
    done = completed_command([sys.executable, "-c", WITHOUT, "sut.loadgen", "mlperf_loadgen"])
    assert done.returncode == 1
    assert "blocked by the test" in done.stderr


def test_the_wheel_has_every_package() -> None:
    """The list in pyproject.toml names each folder with modules of the product."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert {".".join(path.relative_to(ROOT).parent.parts) for path in modules()} - {""} == set(listed)
