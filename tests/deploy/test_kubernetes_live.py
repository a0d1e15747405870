"""A worker started with the manifests' flags, and asked as their probes ask; only the paths are a test's."""

import os
import subprocess
import sys
from pathlib import Path

from tests import fleet, secure
from tests.certificates import Authority
from tests.deploy import manifests
from tests.deploy.test_kubernetes import PROBES

# What the counting engine does not take, and the port, which a test cannot have for itself.
LEFT_OUT = ("--model", "--replicas", "--tensor-parallel-size", "--port", "--host")


def write_secrets(folder: Path) -> None:
    """Write the files of both secrets where `place` looks for them."""
    (folder / "tokenfleet").mkdir()
    (folder / "tokenfleet/token").write_text(secure.TOKEN)
    tls = folder / "tokenfleet-tls"
    tls.mkdir()
    authority = Authority(tls, "ca")
    pair = authority.issue("worker", "tokenfleet-worker-0.tokenfleet-worker", "localhost")
    for made, name in ((authority.path, "ca.crt"), (pair.cert, "tls.crt"), (pair.key, "tls.key")):
        made.rename(tls / name)


def place(text: str, folder: Path) -> str:
    """Move a path of the container into a folder."""
    return text.replace("/run/secrets", str(folder))


def flags_of(container: manifests.Manifest, folder: Path) -> list[str]:
    """Give the container's flags as far as they are the daemon's."""
    return [place(flag, folder) for flag in container["args"] if not flag.startswith(LEFT_OUT)]


def test_grpc_probes_pass_at_a_worker_that_serves(tmp_path: Path) -> None:
    """What each probe asks for is SERVING once the worker serves."""
    write_secrets(tmp_path)
    container = manifests.container(manifests.plain(), "StatefulSet")
    with fleet.workers(tmp_path, 1, *flags_of(container, tmp_path)) as (worker,):
        for probe in PROBES:
            assert "SERVING" == fleet.health(worker.address, container[probe]["grpc"].get("service", ""))


def test_tls_probes_pass_only_with_their_variables(tmp_path: Path) -> None:
    """The command of each probe succeeds with the container's variables, and without its CA does not."""
    write_secrets(tmp_path)
    container = manifests.container(manifests.with_tls(), "StatefulSet")
    worker = fleet.start_worker(tmp_path / "worker.log", *flags_of(container, tmp_path))
    try:
        secure.wait_serving(worker)
        for probe in PROBES:
            program, *command = container[probe]["exec"]["command"]
            assert "tokenfleet" == program
            variables = {
                name: place(value, tmp_path).replace(":50051", f":{worker.address.rpartition(':')[2]}")
                for name, value in manifests.environment(container).items()
            }
            assert [0, 1] == [
                subprocess.run(
                    [sys.executable, "-m", "tokenfleet", *command],
                    env=os.environ | given,
                    cwd=fleet.ROOT,
                    timeout=240,
                    check=False,
                ).returncode
                for given in (
                    variables,
                    variables | {"WORKER_TLS_CA": "", "WORKER_TLS_CERT": "", "WORKER_TLS_KEY": ""},
                )
            ]
    finally:
        worker.stop()
