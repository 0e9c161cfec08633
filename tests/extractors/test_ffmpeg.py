"""Children: waiting for them."""

import pytest

from extractors.ffmpeg import child, wait


@pytest.mark.parametrize("seconds", [0.0, 0.05])
def test_a_child_that_ends_gives_its_code(seconds):
    with child(["sh", "-c", f"sleep {seconds}; exit 3"]) as process:
        assert wait(process, 30) == 3
    assert wait(process, 30) == 3  # asked again


def test_a_child_that_goes_on_gives_no_code():
    with child(["sleep", "30"]) as process:
        assert wait(process, 0.05) is None
        assert wait(process, -1.0) is None
    assert process.returncode == -9  # killed on the way out
