"""The dashboard and the alerts ask only for what `/metrics` has: names, labels and label values."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from prometheus_client.parser import text_string_to_metric_families

from services.api.metrics import Metrics
from services.ingestion.metrics import WorkerMetrics
from services.store.ingestions import Ending, QueueDepth, StoredItem
from services.store.records import IngestionItemState
from vision.errors import ErrorCode, PermanentError

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
ITEM = StoredItem(
    id=uuid.uuid4(), row=1, photo=1, url="u", external_id=None, product_url=None, hints={},
    state=IngestionItemState.RUNNING, attempts=1, drops=0, error_code=None, error_message=None,
    analysis_id=None,
)  # fmt: skip
ENDINGS = (
    Ending.done(ITEM, uuid.uuid4()),
    Ending.done(ITEM, uuid.uuid4()),
    Ending.failed(ITEM, ErrorCode.SOURCE_STATUS, "404"),
    Ending.failed(ITEM, ErrorCode.MODEL_UNAVAILABLE, "died"),
    Ending.failed(ITEM, "internal_error", "a bug"),
    Ending.put_back(ITEM, 5.0),
    Ending.released(ITEM),
)
SELECTOR = re.compile(r"(vestiary_\w+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"([^"]*)"')


@pytest.fixture(scope="module")
def exposed() -> dict[str, dict[str, set[str]]]:
    """Every sample of the two pages: name → label → values."""
    api, worker = Metrics(), WorkerMetrics()
    api.count_request("POST", "/v1/analyses", 201, 0.3)
    api.count_request("GET", "/ready", 503, 0.3)
    api.count_request("GET", "/ready", 500, 0.3)
    api.count_analysis("created")
    api.time_stages({"detect": 12.0})
    worker.count(ENDINGS)
    found: dict[str, dict[str, set[str]]] = {}
    for page in (api.render(QueueDepth(1, 2, 3.0)), worker.render()):
        for family in text_string_to_metric_families(page.decode()):
            for sample in family.samples:
                labels = found.setdefault(sample.name, {})
                for label, value in sample.labels.items():
                    labels.setdefault(label, set()).add(value)
    return found


def expressions() -> Iterator[tuple[str, str]]:
    """Where each expression stands, and the expression."""
    dashboard = json.loads((DEPLOY / "grafana" / "vestiary.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield f"grafana: {panel['title']}", target["expr"]
    for group in yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            yield f"alert: {rule['alert']}", rule["expr"]
    adapter = yaml.safe_load((DEPLOY / "kubernetes" / "prometheus-adapter.yaml").read_text())
    for rule in adapter["rules"]["external"]:
        yield "adapter", rule["seriesQuery"]


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_expressions_ask_for_what_there_is(
    exposed: dict[str, dict[str, set[str]]], where: str, expression: str
) -> None:
    selectors = SELECTOR.findall(expression)
    assert selectors
    for name, matchers in selectors:
        assert name in exposed, name
        for label, operator, value in MATCHER.findall(matchers):
            values = exposed[name].get(label, set())
            pattern = re.compile(value if operator in ("=~", "!~") else re.escape(value))
            # What is left out must be there as well: a misspelt one would leave nothing out.
            assert any(pattern.fullmatch(known) for known in values), (label, value)
        for grouped in re.findall(r"by \(([^)]*)\)", expression):
            labels = {label.strip() for label in grouped.split(",")} - {"instance"}
            assert labels <= exposed[name].keys(), grouped


def test_an_item_is_counted_under_what_became_of_it(
    exposed: dict[str, dict[str, set[str]]],
) -> None:
    metrics = WorkerMetrics()
    metrics.count(ENDINGS)
    metrics.count([])
    (items,) = [
        family
        for family in text_string_to_metric_families(metrics.render().decode())
        if family.name == "vestiary_worker_items"
    ]
    counts = {s.labels["outcome"]: s.value for s in items.samples if s.name.endswith("_total")}
    assert {outcome: count for outcome, count in counts.items() if count} == {
        "done": 2,
        "source_status": 1,
        "model_unavailable": 1,
        "internal_error": 1,
        "postponed": 1,
        "released": 1,
    }


def test_a_worker_serves_its_counts_while_it_works() -> None:
    metrics = WorkerMetrics()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.listen()
        with pytest.raises(PermanentError, match=f"port {port}"), metrics.served(port, "127.0.0.1"):
            pass
    with metrics.served(port, "127.0.0.1"):
        metrics.count(ENDINGS)
        page = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=5)
        assert 'vestiary_worker_items_total{outcome="done"} 2.0' in page.text
    with pytest.raises(requests.ConnectionError):
        requests.get(f"http://127.0.0.1:{port}/metrics", timeout=5)
    with metrics.served(None):
        pass


def test_no_alert_waits_for_a_second_event() -> None:
    """What begins at one, not at zero, never increased."""
    page = WorkerMetrics().render().decode()
    for outcome in ("done", "internal_error", *ErrorCode):
        assert f'vestiary_worker_items_total{{outcome="{outcome}"}} 0.0' in page


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_alerts_fire_when_they_should() -> None:
    finished = subprocess.run(
        ["promtool", "test", "rules", str(DEPLOY / "prometheus" / "alerts_test.yaml")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_panels_do_not_overlap() -> None:
    dashboard: dict[str, Any] = json.loads((DEPLOY / "grafana" / "vestiary.json").read_text())
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
