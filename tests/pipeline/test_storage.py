import os
import stat
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest

from extractors.errors import UsageError
from pipeline import storage

KILLED = """
import os, signal, sys
from pipeline import storage
with storage.publishing(sys.argv[1]) as temporary:
    temporary.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(params=["disk", "memory"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder on the disk, and one on a file system that has no rename."""
    return str(tmp_path) if request.param == "disk" else f"memory://{tmp_path.name}"


def test_what_is_published_is_there_whole(base: str) -> None:
    url = storage.join(base, "a", "b.txt")
    with storage.publishing(url) as temporary:
        temporary.write_bytes(b"first")
        assert not storage.exists(url)
        assert storage.names(storage.join(base, "a", "c")) == []
    assert storage.read_bytes(url) == b"first"
    storage.publish_bytes(url, b"second")
    assert storage.read_bytes(url) == b"second"
    assert storage.names(storage.join(base, "a")) == ["b.txt"]


def test_an_exception_publishes_nothing_and_leaves_nothing(base: str) -> None:
    url = storage.join(base, "b.txt")
    storage.publish_bytes(url, b"old")
    temporaries = []

    def write_half() -> None:
        with storage.publishing(url) as temporary:
            temporaries.append(temporary)
            temporary.write_bytes(b"half")
            raise InterruptedError

    with pytest.raises(InterruptedError):
        write_half()
    assert storage.read_bytes(url) == b"old"
    assert storage.names(base) == ["b.txt"]
    assert not temporaries[0].exists()


def test_a_killed_process_leaves_at_most_a_dot_file(tmp_path: Path) -> None:
    url = str(tmp_path / "000000.tar")
    storage.publish_bytes(url, b"old")
    result = subprocess.run([sys.executable, "-c", KILLED, url], timeout=60, check=False)
    assert result.returncode == -9
    assert storage.read_bytes(url) == b"old"
    (partial,) = set(storage.names(str(tmp_path))) - {"000000.tar"}
    assert partial.startswith(".000000.tar.")
    assert partial.endswith(".partial")
    assert list(tmp_path.glob("*.tar")) == [tmp_path / "000000.tar"]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_files_get_the_mode_of_the_umask(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        storage.publish_bytes(str(tmp_path / "a"), b"x")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode


def test_removing_is_content_with_what_is_gone(base: str) -> None:
    url = storage.join(base, "a")
    storage.publish_bytes(url, b"x")
    storage.remove(url)
    storage.remove(url)
    assert not storage.exists(url)


def test_reading_what_is_not_there(base: str) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read_json(storage.join(base, "nothing.json"))


def test_json_keeps_the_order_of_keys(base: str) -> None:
    url = storage.join(base, "a.json")
    storage.publish_json(url, {"b": 1, "a": "é"})
    assert storage.read_bytes(url).endswith(b"}\n")
    assert list(storage.read_json(url)) == ["b", "a"]


def test_a_plain_path_is_local_whatever_it_holds(tmp_path: Path) -> None:
    for name in ("a::b", "x[1]*?", "é #%20"):
        storage.publish_bytes(str(tmp_path / name), b"x")
        assert (tmp_path / name).read_bytes() == b"x"
        assert storage.local_path(str(tmp_path / name)) == tmp_path / name


def test_relative_paths_and_file_urls_are_local(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.local_path("a/b") == tmp_path / "a/b"
    assert storage.local_path(f"file://{tmp_path}/a") == tmp_path / "a"
    assert storage.local_path("memory://a") is None


def test_an_unknown_protocol_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"nonsense://a: Protocol not known"):
        storage.exists("nonsense://a")


def test_a_local_copy_of_a_remote_file_is_gone_afterwards(tmp_path: Path) -> None:
    fsspec.filesystem("memory").pipe("/copies/a b.mp4", b"123")
    with storage.local_copy("memory://copies/a b.mp4") as path:
        assert Path(path).name == "a b.mp4"
        assert Path(path).read_bytes() == b"123"
    assert not Path(path).exists()
    (tmp_path / "x").write_bytes(b"1")
    with storage.local_copy(str(tmp_path / "x")) as path:
        assert path == str(tmp_path / "x")


def test_a_remote_put_that_fails_publishes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = fsspec.filesystem("memory")

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(memory), "put_file", fail)
    with pytest.raises(OSError, match="No space"):
        storage.publish_bytes("memory://full/a", b"x")
    assert not storage.exists("memory://full/a")


def test_what_killed_processes_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    url = str(tmp_path / "000000.tar")
    subprocess.run([sys.executable, "-c", KILLED, url], timeout=60, check=False)
    (left,) = tmp_path.iterdir()
    other = tmp_path / ".a.tar.elsewhere-1-77.0123456789abcdef.partial"
    old = tmp_path / ".b.tar.elsewhere-1-77.0123456789abcdef.partial"
    foreign = tmp_path / ".hidden.partial"
    for path in (other, old, foreign):
        path.touch()
    os.utime(old, (1, 1))
    with storage.publishing(str(tmp_path / "c.d.tar")) as ours:
        assert set(storage.sweep(str(tmp_path))) == {left, old}
        assert set(tmp_path.iterdir()) == {ours, other, foreign}
    assert storage.sweep(str(tmp_path / "nothing")) == []


def test_a_remote_call_that_fails_in_passing_is_made_again_and_no_more_than_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = type(fsspec.filesystem("memory"))
    monkeypatch.setattr(storage, "PAUSES", (0.0, 0.0))
    storage.publish_bytes("memory://flaky/a", b"x")
    calls: list[Exception] = []

    def fail_with(*errors: Exception) -> None:
        calls[:] = errors

    real = memory.put_file

    def put_file(self: object, *given: object, **named: object) -> None:
        if calls:
            raise calls.pop(0)
        real(self, *given, **named)

    monkeypatch.setattr(memory, "put_file", put_file)
    fail_with(ConnectionResetError(104, "Connection reset by peer"), TimeoutError("slow"))
    storage.publish_bytes("memory://flaky/a", b"y")
    assert storage.read_bytes("memory://flaky/a") == b"y"
    fail_with(*[ConnectionResetError(104, "Connection\nreset by peer")] * 4)
    with pytest.raises(OSError, match=r"^memory://flaky/a: .*Connection reset by peer"):
        storage.publish_bytes("memory://flaky/a", b"z")
    assert len(calls) == 1
    assert storage.read_bytes("memory://flaky/a") == b"y"
    fail_with(PermissionError("no"), OSError(5, "never asked"))
    with pytest.raises(PermissionError, match="memory://flaky/a: no"):
        storage.publish_bytes("memory://flaky/a", b"z")
    assert len(calls) == 1
