import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from extractors.errors import AbortError
from pipeline import lease as leases
from pipeline import storage
from pipeline.lease import Lease, holding, read_lease

HOLD = """
import sys, time
from pipeline.lease import holding
with holding(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(params=["disk", "memory"])
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "d") if request.param == "disk" else f"memory://{tmp_path.name}"


@pytest.fixture
def write(dataset: str) -> Callable[..., Lease]:
    """A lease of a machine that is not this one, renewed so many seconds ago."""

    def make(age: float, **other: object) -> Lease:
        now = time.time()
        lease = Lease("other", "elsewhere-1", 4321, 1.0, "ann", now - 900, now - age)
        lease = replace(lease, **other)  # type: ignore[arg-type]
        storage.publish_json(storage.join(dataset, "run.json"), asdict(lease))
        return lease

    return make


def test_a_lease_is_there_while_the_run_lasts(dataset: str) -> None:
    with holding(dataset) as holder:
        assert read_lease(dataset) == holder.lease
        assert holder.lease.pid == os.getpid()
        assert holder.lease.valid
        holder.check()
    assert read_lease(dataset) is None
    assert storage.names(dataset) == []


def test_a_run_that_made_nothing_leaves_no_folder(tmp_path: Path) -> None:
    with holding(str(tmp_path / "a" / "d")):
        pass
    assert not (tmp_path / "a" / "d").exists()
    with holding(str(tmp_path / "d")):
        (tmp_path / "d/plan").touch()
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["plan"]


def test_a_second_run_is_refused_in_one_line_that_says_who(dataset: str) -> None:
    with holding(dataset) as first:
        with pytest.raises(AbortError) as caught, holding(dataset):
            pytest.fail("two runs at once")
        text = str(caught.value)
        assert f"process {os.getpid()} of " in text
        assert storage.host() in text
        assert "--take-over" in text
        assert "\n" not in text
        assert read_lease(dataset) == first.lease


def test_a_fresh_lease_of_another_machine_is_respected_and_a_stale_one_is_not(
    dataset: str, write: Callable[..., Lease]
) -> None:
    write(age=290)
    with pytest.raises(AbortError, match="4321 of ann on elsewhere-1"), holding(dataset):
        pytest.fail("two runs at once")
    write(age=310)
    with holding(dataset) as holder:
        assert read_lease(dataset) == holder.lease


def test_a_process_id_that_was_used_again_holds_nothing(
    dataset: str, write: Callable[..., Lease]
) -> None:
    """A process of this machine is known by its start too; its lease needs no five minutes."""
    write(age=1, host=storage.host(), pid=os.getpid())
    with holding(dataset):
        pass


def test_the_one_who_was_taken_over_stops(dataset: str) -> None:
    with holding(dataset) as first, holding(dataset, take_over=True) as second:
        first.renew()
        with pytest.raises(AbortError, match="taken over by another run"):
            first.check()
        second.renew()
        second.check()
        assert read_lease(dataset) == second.lease
    assert read_lease(dataset) is None


def test_a_lease_is_renewed(dataset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.02)
    with holding(dataset) as holder:
        started = holder.lease.renewed
        deadline = time.monotonic() + 10
        while (found := read_lease(dataset)) is None or found.renewed == started:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert found.started == holder.lease.started


def test_a_storage_that_fails_for_a_moment_does_not_end_the_run(
    dataset: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with holding(dataset) as holder:
        with monkeypatch.context() as patch:
            patch.setattr(storage, "publish_json", fail)
            holder.renew()
        holder.check()
    assert "not renewed" in caplog.text


def test_a_killed_process_of_this_machine_holds_nothing(tmp_path: Path) -> None:
    dataset = str(tmp_path / "d")
    command = [sys.executable, "-c", HOLD, dataset]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(AbortError, match=f"process {process.pid} of"), holding(dataset):
            pytest.fail("two runs at once")
        process.kill()
        process.wait()
    assert json.loads((tmp_path / "d/run.json").read_text())["pid"] == process.pid
    with holding(dataset):
        pass


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"run": 1}'])
def test_a_damaged_lease_is_none(dataset: str, content: bytes) -> None:
    storage.publish_bytes(storage.join(dataset, "run.json"), content)
    with holding(dataset):
        assert read_lease(dataset) is not None
