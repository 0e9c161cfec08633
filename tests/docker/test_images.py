"""The images: lint, pins, what is asked of their contents. Building them needs an engine."""

import http.server
import importlib.util
import re
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest

DOCKER = Path(__file__).parents[2] / "docker"
FILES = ("Dockerfile", "Dockerfile.cpu")


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docker_{name}", DOCKER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    paths = [DOCKER / name for name in FILES]
    result = subprocess.run([hadolint, *paths], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("name", FILES)
def test_an_image(name: str) -> None:
    text = (DOCKER / name).read_text()
    final = text[text.rindex("\nFROM ") :]
    assert "pip install --constraint constraints.txt" in text
    assert final.index("USER 10001:10001") < final.index('ENTRYPOINT ["pipeline"]')
    assert "VOLUME /weights" in final
    assert "PIPELINE_WEIGHTS=/weights" in final
    assert "HEALTHCHECK" in final
    assert not re.search(r"pipeline weights|build-essential", final)
    ignored = (DOCKER / f"{name}.dockerignore").read_text()
    for source in re.findall(r"^COPY (?!--from|\. )(.*) \S+$", text, re.M):
        for path in source.split():
            assert (DOCKER.parent / path).exists()
            assert f"!{path}\n" in ignored


def test_requirements_are_those_of_the_project() -> None:
    requirements = module("requirements").requirements
    pyproject = (DOCKER.parent / "pyproject.toml").read_text()
    both = requirements(pyproject, ["s3", "faiss-gpu"], ["faiss-cpu"])
    names = [re.split(r"[^\w-]", line)[0] for line in both]
    assert {"torch", "faiss-gpu-cu12", "s3fs"} <= set(names)
    assert "ray[default]" in both
    assert "faiss-cpu" not in names
    assert "pytest" not in names
    assert "faiss-cpu" in "".join(requirements(pyproject, [], []))
    with pytest.raises(KeyError):
        requirements(pyproject, ["nothing"], [])


class Answer(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(("status", "good"), [(200, True), (503, False)])
def test_health_of_a_server(status: int, good: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    healthy = module("healthcheck").healthy
    monkeypatch.setattr(Answer, "status", status)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever).start()
        line = ["docker-init", "--", "python", "pipeline", "serve", "i", "--port"]
        assert healthy([*line, str(server.server_port)]) is good
        server.shutdown()
    assert not healthy([*line, str(server.server_port)])


def test_health_of_another_command() -> None:
    healthcheck = module("healthcheck")
    assert healthcheck.healthy(["pipeline", "run", "extract"])
    assert healthcheck.served_port(["pipeline", "serve", "i"]) == "8080"
    assert healthcheck.served_port(["pipeline", "serve", "i", "--port=1"]) == "1"
