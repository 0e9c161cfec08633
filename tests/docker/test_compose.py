"""compose.yaml, Prometheus and the dashboard: parsed, and held against the code."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import ray.scripts.scripts
import typer
import yaml

from index.serving.guard import Metrics
from pipeline.cli import app
from pipeline.metrics import MEMORY, WAITING, WORKER_METRICS

DOCKER = Path(__file__).parents[2] / "docker"


@pytest.fixture
def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load((DOCKER / "compose.yaml").read_text())[
        "services"
    ]
    return found


def exported() -> set[str]:
    """Every name that Prometheus can see of ours."""
    names = {"process_resident_memory_bytes"}
    for metric in (*WORKER_METRICS, MEMORY, WAITING):
        endings = {"counter": ("_total",), "gauge": ("",)}.get(metric.kind, ("_bucket", "_sum"))
        names |= {metric.name + ending for ending in endings}
    names |= {f"ray_{MEMORY.name}"}
    kinds = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
    for family in Metrics().registry.collect():
        names |= {family.name + ending for ending in kinds.get(family.type, ("",))}
    return names


def test_services(services: dict[str, dict[str, Any]]) -> None:
    assert set(services) == {
        "minio", "bucket", "ray-head", "ray-worker", "search", "textfile", "prometheus", "grafana",
    }  # fmt: skip
    for name, service in services.items():
        assert "image" in service, name
        assert ":" in service["image"]
        assert not service["image"].endswith(":latest")
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), name


def test_files_that_are_mounted_exist(services: dict[str, dict[str, Any]]) -> None:
    declared = yaml.safe_load((DOCKER / "compose.yaml").read_text())["volumes"]
    for service in services.values():
        for volume in service.get("volumes", ()):
            if volume.startswith("./"):
                assert (DOCKER / volume.split(":")[0]).is_file()
            elif not volume.startswith("${VIDEOS"):
                assert volume.split(":")[0] in declared


def test_no_password_is_written_down(services: dict[str, dict[str, Any]]) -> None:
    for service in services.values():
        for key, value in service.get("environment", {}).items():
            if re.search("KEY|PASSWORD|USER|MC_HOST", key):
                assert "${" in value
    variables = set(re.findall(r"\$\{(\w+)", (DOCKER / "compose.yaml").read_text()))
    example = (DOCKER / "env.example").read_text()
    assert variables == set(re.findall(r"^(\w+)=", example, re.M))


def test_ray_understands_its_options(services: dict[str, dict[str, Any]]) -> None:
    for name in ("ray-head", "ray-worker"):
        service = services[name]
        words = service["entrypoint"] + service["command"]
        assert words[:2] == ["ray", "start"]
        context = ray.scripts.scripts.start.make_context("start", words[2:])
        assert context.params["metrics_export_port"] == 8080
        assert context.params["block"] is True


def test_the_search_servers_command_exists(services: dict[str, dict[str, Any]]) -> None:
    name, *arguments = services["search"]["command"]
    command = typer.main.get_command(app.app).commands[name]  # type: ignore[attr-defined]
    params = command.make_context(name, arguments).params
    assert services["search"]["ports"] == [f"127.0.0.1:8080:{params['port']}"]
    assert params["host"] == "0.0.0.0"


def test_the_gpu_file_changes_services_that_exist(services: dict[str, dict[str, Any]]) -> None:
    gpu = yaml.safe_load((DOCKER / "compose.gpu.yaml").read_text())["services"]
    assert set(gpu) <= set(services)
    assert all(service["gpus"] == "all" for service in gpu.values())


def test_prometheus_asks_services_that_exist(services: dict[str, dict[str, Any]]) -> None:
    jobs = yaml.safe_load((DOCKER / "prometheus.yaml").read_text())["scrape_configs"]
    hosts = set()
    for job in jobs:
        for entry in job.get("static_configs", ()):
            hosts |= {target.split(":")[0] for target in entry["targets"]}
        for entry in job.get("dns_sd_configs", ()):
            hosts |= set(entry["names"])
    assert hosts == {"textfile", "ray-head", "ray-worker", "search"}
    assert hosts <= set(services)


def test_the_dashboard_shows_what_is_exported() -> None:
    dashboard = json.loads((DOCKER / "grafana" / "pipeline.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked = set()
    for expression in expressions:
        bare = re.sub(r"\{.*?\}|\[.*?\]|(by|on) \(.*?\)", "", expression)
        asked |= set(re.findall(r"\b(?:ray_)?(?:pipeline|search|process)_\w+", bare))
    assert asked <= exported(), asked - exported()
    for topic in ("videos", "failures", "stage_seconds", "resident_bytes", "jobs_waiting"):
        assert any(f"pipeline_{topic}" in name for name in asked)
    places = [tuple(panel["gridPos"][axis] for axis in "xy") for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    (source,) = yaml.safe_load((DOCKER / "grafana" / "datasource.yaml").read_text())["datasources"]
    dashboard = json.loads((DOCKER / "grafana" / "pipeline.json").read_text())
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {source["uid"]}
    (provider,) = yaml.safe_load((DOCKER / "grafana" / "provider.yaml").read_text())["providers"]
    assert provider["options"]["path"] == "/dashboards"
