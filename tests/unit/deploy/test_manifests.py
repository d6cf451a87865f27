"""What is deployed is what the schemas of Kubernetes know, and true to the code."""

from __future__ import annotations

import configparser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from services.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
KUBERNETES = ROOT / "deploy" / "kubernetes"
VERSION = "1.33"
PREFIX = "VESTIARY_"
# A worker holds a connection while it analyses a batch, and others for moments.
SERVER_CONNECTIONS_OF_A_WORKER = 1.3


def manifests() -> list[dict[str, Any]]:
    kustomization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    return [
        manifest
        for name in kustomization["resources"]
        for manifest in yaml.safe_load_all((KUBERNETES / name).read_text())
    ]


def named(kind: str, name: str) -> dict[str, Any]:
    (found,) = [m for m in manifests() if (m["kind"], m["metadata"]["name"]) == (kind, name)]
    return found


def pods() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Name, pod and container of everything that runs."""
    for manifest in manifests():
        if manifest["kind"] in ("Deployment", "Job"):
            pod = manifest["spec"]["template"]["spec"]
            (container,) = pod["containers"]
            yield manifest["metadata"]["name"], pod, container


@pytest.mark.parametrize(
    "manifest", manifests(), ids=lambda m: f"{m['kind']}-{m['metadata']['name']}"
)
def test_kubernetes_knows_every_field(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, VERSION, strict=True)


def test_every_manifest_is_applied() -> None:
    kustomization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    # The adapter's rule goes into the adapter's own chart.
    others = {"kustomization.yaml", "prometheus-adapter.yaml"}
    assert {path.name for path in KUBERNETES.iterdir()} - others == set(kustomization["resources"])
    built = {image["name"] for image in kustomization["images"]}
    assert {container["image"] for _, _, container in pods()} == built


@pytest.mark.parametrize(
    ("name", "pod", "container"), list(pods()), ids=lambda v: v if isinstance(v, str) else ""
)
def test_nothing_runs_as_root_or_without_limits(
    name: str, pod: dict[str, Any], container: dict[str, Any]
) -> None:
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["automountServiceAccountToken"] is False
    own = container["securityContext"]
    assert own["readOnlyRootFilesystem"]
    assert not own["allowPrivilegeEscalation"]
    assert own["capabilities"]["drop"] == ["ALL"]
    assert set(container["resources"]) == {"requests", "limits"}
    if not name.endswith("migrate"):
        assert "livenessProbe" in container
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes


def test_everything_that_is_referred_to_is_there() -> None:
    secret, config = named("Secret", "vestiary"), named("ConfigMap", "vestiary")
    for name, _, container in pods():
        for variable in container.get("env", ()):
            if "value" in variable:
                continue
            reference = variable["valueFrom"]["secretKeyRef"]
            assert reference["name"] == "vestiary", name
            assert reference["key"] in secret["stringData"], name
        for source in container.get("envFrom", ()):
            assert source["configMapRef"]["name"] == config["metadata"]["name"], name
    for manifest in manifests():
        selector = manifest["spec"].get("selector") if "spec" in manifest else None
        if manifest["kind"] in ("Service", "PodDisruptionBudget") and selector:
            labels = selector.get("matchLabels", selector)
            named("Deployment", labels["app.kubernetes.io/name"])
    target = named("HorizontalPodAutoscaler", "vestiary-worker")["spec"]["scaleTargetRef"]
    assert "replicas" not in named(target["kind"], target["name"])["spec"]
    adapter = yaml.safe_load((KUBERNETES / "prometheus-adapter.yaml").read_text())
    (metric,) = named("HorizontalPodAutoscaler", "vestiary-worker")["spec"]["metrics"]
    asked = metric["external"]["metric"]["name"]
    assert asked in {rule["name"]["as"] for rule in adapter["rules"]["external"]}


def test_probes_and_scrapers_ask_ports_that_are_open() -> None:
    config = named("ConfigMap", "vestiary")["data"]
    for name, _, container in pods():
        ports = {port["name"]: port["containerPort"] for port in container.get("ports", ())}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            asked = container.get(probe, {})
            for way in ("httpGet", "tcpSocket"):
                assert way not in asked or asked[way]["port"] in ports, (name, probe)
    worker = named("Deployment", "vestiary-worker")["spec"]["template"]
    scraped = worker["metadata"]["annotations"]["prometheus.io/port"]
    assert scraped == config["VESTIARY_WORKER_METRICS_PORT"]


def test_every_variable_is_a_setting() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"].values()
    given = {name for service in compose for name in service.get("environment", {})}
    given |= named("ConfigMap", "vestiary")["data"].keys()
    given |= {v["name"] for _, _, container in pods() for v in container.get("env", ())}
    known = {f"{PREFIX}{name}".upper() for name in Settings.model_fields}
    assert {name for name in given if name.startswith(PREFIX)} <= known
    config = named("ConfigMap", "vestiary")["data"]
    # As the environment would hand them over: as text.
    Settings.model_validate({k.removeprefix(PREFIX).lower(): v for k, v in config.items()})


def test_postgres_has_room_for_the_workers_that_may_be_there() -> None:
    pooler = configparser.ConfigParser(interpolation=None)
    pooler.read(ROOT / "deploy" / "pgbouncer" / "pgbouncer.ini")
    pool = int(pooler["pgbouncer"]["default_pool_size"])
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    (limit,) = [
        int(word.partition("=")[2])
        for word in compose["services"]["postgres"]["command"]
        if word.startswith("max_connections=")
    ]
    assert limit >= pool + 20
    most = named("HorizontalPodAutoscaler", "vestiary-worker")["spec"]["maxReplicas"]
    assert most * SERVER_CONNECTIONS_OF_A_WORKER <= pool
    # All connections that workers and servers can open to one of the poolers.
    opened = int(pooler["pgbouncer"]["max_client_conn"])
    assert opened >= (most + 20) * 20


def test_only_the_migration_goes_past_the_pooler() -> None:
    secret = named("Secret", "vestiary")["stringData"]
    assert "@vestiary-pgbouncer:6432/" in secret["VESTIARY_DATABASE_URL"]
    assert "@postgres:5432/" in secret["direct-database-url"]
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    hosts = {
        name: service["environment"]["VESTIARY_DATABASE_URL"].rpartition("@")[2]
        for name, service in compose.items()
        if service.get("image") == "vestiary:latest"
    }
    assert hosts.pop("migrate") == "postgres:5432/vestiary"
    assert set(hosts.values()) == {"pgbouncer:6432/vestiary"}
