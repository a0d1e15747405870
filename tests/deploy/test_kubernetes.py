"""The manifests: Kubernetes' own schemas, the programs that read their flags, and each other's names."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from coordinator.config import parse as parse_coordinator
from protos.columns import SERVICE
from tests import fleet
from tests.deploy import manifests
from worker.config import WorkerConfig
from worker.config import parse as parse_worker

VARIANTS = pytest.mark.parametrize("variant", [manifests.plain, manifests.with_tls])
Variant = Callable[[], list[manifests.Manifest]]
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
KINDS = ("StatefulSet", "Job")
# gRPC probes are stable from 1.27 on; the other one is the newest that the validator knows.
VERSIONS = ["1.27", "1.37"]


@pytest.mark.parametrize("version", VERSIONS)
@VARIANTS
def test_every_manifest_is_strictly_valid(variant: Variant, version: str) -> None:
    """Kubernetes' schema admits each object, and knows each of its fields."""
    kinds = []
    for manifest in variant():
        assert version == kubernetes_validate.validate(manifest, version, strict=True)
        kinds.append(manifest["kind"])
    expected = ["Job", *["PersistentVolumeClaim"] * 3, "Pod", "Service", "StatefulSet"]
    assert expected == sorted(kinds)


def test_the_validator_refuses_what_kubernetes_does_not_know() -> None:
    """A misspelt field deep inside fails the validation above."""
    wrong = manifests.plain()
    manifests.container(wrong, "StatefulSet")["livenessProbe"]["grpc"]["prot"] = 50051
    with pytest.raises(kubernetes_validate.ValidationError, match="'prot' was unexpected"):
        kubernetes_validate.validate(manifests.only(wrong, "StatefulSet"), VERSIONS[0], strict=True)


def test_every_file_is_in_a_kustomization() -> None:
    """No manifest lies about that nothing applies."""
    named = [path for room in (*manifests.ROOMS, "metrics") for path in manifests.resources(room)]
    there = [path for path in manifests.FOLDER.rglob("*.yaml") if path.name != "kustomization.yaml"]
    assert sorted(named) == sorted(there)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kustomize_makes_the_same_of_the_tls_component(tmp_path: Path) -> None:
    """An operator's own kustomization of all folders gives what the tests here validate."""
    folder = os.path.relpath(manifests.FOLDER, tmp_path)
    site = {
        "resources": [f"{folder}/{room}" for room in manifests.ROOMS],
        "components": [f"{folder}/tls"],
        # What else the kustomizations do is to set images: back to the manifests' own.
        "images": [{"name": name, "newName": name, "newTag": "t"} for name in images()],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(site))
    done = subprocess.run(
        ["kubectl", "kustomize", tmp_path], capture_output=True, text=True, timeout=240, check=True
    )
    expected = manifests.with_tls()
    for kind in (*KINDS, "Pod"):
        manifests.container(expected, kind)["image"] += ":t"

    def name(manifest: manifests.Manifest) -> tuple[str, str]:
        return manifest["kind"], manifest["metadata"]["name"]

    assert sorted(expected, key=name) == sorted(yaml.safe_load_all(done.stdout), key=name)


def images() -> list[str]:
    """List the containers' images."""
    return [manifests.container(manifests.plain(), kind)["image"] for kind in KINDS]


def test_kustomize_sets_every_image() -> None:
    """The placeholders in the manifests are the names that the kustomizations replace and docker/ builds."""
    entries = [entry for room in ("workers", "run") for entry in manifests.kustomization(room)["images"]]
    assert images() == [entry["name"] for entry in entries]
    for name in images():
        assert (fleet.ROOT / f"docker/Dockerfile.{name.removeprefix('tokenfleet-')}").is_file()


@VARIANTS
def test_the_worker_reads_its_flags(variant: Variant) -> None:
    """The worker's own parser takes the container's flags; the grace period lets a drain end."""
    container = manifests.container(variant(), "StatefulSet")
    config, model, engine_flags = parse_worker(container["args"])

    assert ("0.0.0.0", "openai/gpt-oss-120b") == (config.host, model)
    assert "--tensor-parallel-size=1" == engine_flags[-1]
    assert config.insecure == (config.tls_ca is None)
    assert 60 == manifests.pod(variant(), "StatefulSet")["terminationGracePeriodSeconds"]
    # 10 s stay for the engine.
    assert 60 >= config.drain_timeout_s + 10


@VARIANTS
def test_ports_are_the_workers_own(variant: Variant) -> None:
    """Service, container and flags name the worker's default port; those of eight replicas follow it."""
    container = manifests.container(variant(), "StatefulSet")
    (service_port,) = manifests.only(variant(), "Service")["spec"]["ports"]

    assert 50051 == WorkerConfig().port == service_port["port"] == parse_worker(container["args"])[0].port
    assert list(range(50051, 50060)) == [port["containerPort"] for port in container["ports"]]


@VARIANTS
def test_the_gpus_asked_for_are_those_used(variant: Variant) -> None:
    """R replicas of T ranks take R x T GPUs."""
    container = manifests.container(variant(), "StatefulSet")
    flags = dict(re.findall(r"--(replicas|tensor-parallel-size)=(\d+)", " ".join(container["args"])))

    assert {"replicas": "8", "tensor-parallel-size": "1"} == flags
    assert {"nvidia.com/gpu": 8} == container["resources"]["limits"]


@VARIANTS
def test_the_coordinator_reads_its_flags_and_finds_every_worker(variant: Variant) -> None:
    """The coordinator's own parser takes the Job's flags; its workers are the StatefulSet's pods, by name."""
    config = parse_coordinator(manifests.container(variant(), "Job")["args"])
    stateful, service = (manifests.only(variant(), kind) for kind in ("StatefulSet", "Service"))
    pods = [f"{stateful['metadata']['name']}-{index}" for index in range(stateful["spec"]["replicas"])]

    assert service["metadata"]["name"] == stateful["spec"]["serviceName"]
    assert tuple(f"{pod}.{service['metadata']['name']}:50051" for pod in pods) == config.workers
    # Pods that are not ready have names too: the coordinator itself waits, for as long as a start may take.
    assert service["spec"]["publishNotReadyAddresses"]
    startup = manifests.container(variant(), "StatefulSet")["startupProbe"]
    assert 3600 == config.ready_timeout_s == startup["failureThreshold"] * startup["periodSeconds"]


@VARIANTS
def test_files_that_flags_name_are_mounted(variant: Variant) -> None:
    """Each path in a flag or variable lies in a mount; each mount has its volume."""
    for kind in KINDS:
        container = manifests.container(variant(), kind)
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        words = [*container["args"], *manifests.environment(container).values()]
        paths = [match for word in words for match in re.findall(r"(?:^|=)(/.+)", word)]

        assert [] == [path for path in paths if not path.startswith(tuple(mounts.values()))]
        assert sorted(mounts) == sorted(
            volume["name"] for volume in manifests.pod(variant(), kind)["volumes"]
        )


@VARIANTS
def test_claims_are_there_and_secrets_are_documented(variant: Variant) -> None:
    """Each claim that a pod names is a manifest; the guide says how to make each secret."""
    guide = (fleet.ROOT / "docs/kubernetes.md").read_text()
    volumes = [volume for kind in KINDS for volume in manifests.pod(variant(), kind)["volumes"]]
    claims = {volume.get("persistentVolumeClaim", {}).get("claimName") for volume in volumes} - {None}
    secrets = {volume.get("secret", {}).get("secretName") for volume in volumes} - {None}

    assert claims == {
        manifest["metadata"]["name"] for manifest in variant() if manifest["kind"] == "PersistentVolumeClaim"
    }
    assert [] == [name for name in secrets if f"secret generic {name} " not in guide]


@VARIANTS
def test_pods_run_as_the_images_user(variant: Variant) -> None:
    """The pods' user is the one that the Dockerfiles make, and cannot become another."""
    for kind, dockerfile in zip(KINDS, ("Dockerfile.vllm", "Dockerfile.coordinator"), strict=True):
        security = manifests.pod(variant(), kind)["securityContext"]
        assert f"--uid {security['runAsUser']} " in (fleet.ROOT / "docker" / dockerfile).read_text()
        assert (10001, True) == (security["fsGroup"], security["runAsNonRoot"])
        assert not manifests.container(variant(), kind)["securityContext"]["allowPrivilegeEscalation"]


def test_grpc_probes_ask_what_a_worker_serves() -> None:
    """Start and life ask for the whole, readiness for the service that the worker names; all on its port."""
    container = manifests.container(manifests.plain(), "StatefulSet")

    assert "tokenfleet.v1.Worker" == SERVICE
    assert [
        {"port": 50051},
        {"port": 50051, "service": "tokenfleet.v1.Worker"},
        {"port": 50051},
    ] == [container[probe]["grpc"] for probe in PROBES]


@VARIANTS
def test_metrics_are_served_where_the_pod_monitors_scrape(variant: Variant) -> None:
    """With the component the programs take their flags; each monitor selects a pod and its port by name."""
    found = manifests.with_component("metrics", variant())
    for manifest in found:
        kubernetes_validate.validate(manifest, VERSIONS[0], strict=True)
    worker = parse_worker(manifests.container(found, "StatefulSet")["args"])[0]
    run = parse_coordinator(manifests.container(found, "Job")["args"])
    assert [(9464, "0.0.0.0")] * 2 == [(own.metrics_port, own.metrics_host) for own in (worker, run)]

    (path,) = manifests.resources("metrics")
    for kind, monitor in zip(KINDS, manifests.read(path), strict=True):
        labels = manifests.only(found, kind)["spec"]["template"]["metadata"]["labels"]
        assert labels == monitor["spec"]["selector"]["matchLabels"]
        (scraped,) = monitor["spec"]["podMetricsEndpoints"]
        ports = {port["name"]: port["containerPort"] for port in manifests.container(found, kind)["ports"]}
        assert 9464 == ports[scraped["port"]]
