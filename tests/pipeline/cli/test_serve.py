import re
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from extractors.errors import UsageError
from pipeline.cli.serve import read_token
from tests.index.real_corpus import RealCorpus
from tests.pipeline.conftest import Outcome, Running


def test_it_serves_until_sigterm(start: Callable[..., Running], real: RealCorpus) -> None:
    running = start("serve", real.index, "--port", 0, "--device", "cpu")
    assert running.process.stderr is not None
    line = running.process.stderr.readline()
    found = re.search(r"at (http://127\.0\.0\.1:\d+)/", line)
    assert found, line
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"{found[1]}/health", timeout=5) as answer:
                assert answer.status == 200
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    code, errors = running.terminate(seconds=30)
    assert code == 0
    assert errors.strip() == "ended"


def test_no_index_exits_with_1(run: Callable[..., Outcome], tmp_path: Path) -> None:
    outcome = run("serve", tmp_path)
    assert outcome.code == 1
    assert "no finished index there" in outcome.err


def test_a_token_comes_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    file.write_text("abc\n")
    monkeypatch.setenv("PIPELINE_SERVE_TOKEN", "env")
    assert read_token(file) == "abc"
    assert read_token(None) == "env"
    monkeypatch.delenv("PIPELINE_SERVE_TOKEN")
    assert read_token(None) is None
    file.write_text(" \n")
    with pytest.raises(UsageError, match="empty"):
        read_token(file)
    with pytest.raises(UsageError, match="gone"):
        read_token(tmp_path / "gone")
