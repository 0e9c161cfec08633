"""training.protocols.step_files on small files in the published formats."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import log_softmax

from extractors.errors import UsageError
from training.protocols.step_files import (
    AnnotatedVideo,
    read_crosstask,
    read_labels,
    read_mining_youtube,
    read_step_names,
    write_probs,
)

TASKS = """\
23521
Make Jello Shots
https://www.wikihow.com/Make-Jello-Shots
3
pour water,stir mixture,pour alcohol

16815
Change a Tire
https://www.wikihow.com/Change-a-Tire
2
brake on,get things out

"""
TEA = ("pour water", "stir mixture", "pour alcohol")


@pytest.fixture
def tasks(tmp_path: Path) -> str:
    (tmp_path / "tasks_primary.txt").write_text(TASKS)
    return str(tmp_path / "tasks_primary.txt")


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    folder = tmp_path / "annotations"
    folder.mkdir()
    (folder / "23521_-a_b_c.csv").write_text("1,0.4,2.0\n3,3.5,4.2\n3,9.99,99\n")
    (folder / "16815_xyz.csv").write_text("2,1,1\n")
    (folder / "99_other.csv").write_text("1,1,2\n")
    return folder


def test_crosstask_release(annotations: Path, tasks: str) -> None:
    first, second = read_crosstask(str(annotations), tasks)
    assert (first.video, first.task, first.steps) == (
        "xyz",
        "16815",
        ("brake on", "get things out"),
    )
    assert (second.video, second.task, second.steps) == ("-a_b_c", "23521", TEA)
    labels = read_labels(second, 11)
    assert labels.shape == (11, 3)
    # floor(start) to ceil(end), cut at the end of the video
    assert np.argwhere(labels).tolist() == [[0, 0], [1, 0], [3, 2], [4, 2], [9, 2], [10, 2]]
    assert not read_labels(first, 5).any()  # lasts no time


def test_crosstask_as_mcn_used_it(annotations: Path, tmp_path: Path) -> None:
    labels = np.zeros((4, 3), dtype=np.uint8)
    labels[1:3, 1] = 1
    np.save(annotations / "23521_-a_b_c.npy", labels)
    (tmp_path / "step.json").write_text(json.dumps({"23521": list(TEA)}))
    (video,) = read_crosstask(str(annotations), str(tmp_path / "step.json"))
    assert video.url.endswith("_c.npy")  # before the .csv of the same video
    np.testing.assert_array_equal(read_labels(video, 999), labels > 0)


def test_mining_youtube(tmp_path: Path) -> None:
    folder = tmp_path / "labels"
    folder.mkdir()
    np.save(folder / "vid-1.npy", np.eye(3, 2, dtype=np.float32))
    steps = tmp_path / "steps.json"
    steps.write_text(json.dumps({"vid-1": ["crack egg", "stir egg"], "unused": ["x"]}))
    (video,) = read_mining_youtube(str(folder), str(steps))
    assert (video.video, video.task, video.steps) == ("vid-1", "", ("crack egg", "stir egg"))
    assert read_labels(video, 3).tolist() == [[True, False], [False, True], [False, False]]
    np.save(folder / "vid-2.npy", np.eye(2))
    with pytest.raises(UsageError, match="no steps of video vid-2"):
        read_mining_youtube(str(folder), str(steps))
    with pytest.raises(UsageError, match="no labels"):
        read_mining_youtube(str(tmp_path), str(steps))


def test_no_annotation_of_a_known_task(annotations: Path, tmp_path: Path) -> None:
    (tmp_path / "step.json").write_text('{"1": ["a"]}')
    with pytest.raises(UsageError, match="no <task>_<video>"):
        read_crosstask(str(annotations), str(tmp_path / "step.json"))


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("4,1,2", "steps go from 1 to 3"),
        ("0,1,2", "steps go from 1 to 3"),
        ("1.5,1,2", "steps go from 1 to 3"),
        ("1,3,2", "times from 0 up"),
        ("1,1,inf", "times from 0 up"),
        ("1,1", "no `step,start,end`"),
        ("one,1,2", "no `step,start,end`"),
    ],
)
def test_damaged_annotations_name_the_line(tmp_path: Path, line: str, wanted: str) -> None:
    (tmp_path / "1_a.csv").write_text(f"1,1,2\n\n{line}\n")
    video = AnnotatedVideo("a", "1", TEA, str(tmp_path / "1_a.csv"))
    with pytest.raises(UsageError, match=f"line 3.*{wanted}"):
        read_labels(video, 10)


def test_labels_of_another_shape_are_refused(tmp_path: Path) -> None:
    video = AnnotatedVideo("a", "1", TEA, str(tmp_path / "a.npy"))
    for shape in [(5, 2), (5,), (0, 3)]:
        np.save(tmp_path / "a.npy", np.zeros(shape))
        with pytest.raises(UsageError, match=r"\(seconds, 3\) is wanted"):
            read_labels(video, 5)
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UsageError, match="not an array"):
        read_labels(video, 5)


def test_damaged_lists_of_steps_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tasks.txt"
    path.write_text(TASKS.replace("\n3\n", "\n4\n"))
    with pytest.raises(UsageError, match="at task '23521'"):
        read_step_names(str(path))
    for content in ['{"a": []}', '["a"]', '{"a": [1]}', "{"]:
        (tmp_path / "steps.json").write_text(content)
        with pytest.raises(UsageError, match=r"steps\.json"):
            read_step_names(str(tmp_path / "steps.json"))
    with pytest.raises(UsageError, match="no such file"):
        read_step_names(str(tmp_path / "nothing.txt"))


def test_probs_are_a_line_a_second(tmp_path: Path) -> None:
    scores = np.array([[1.0, 3.0, -2.0], [0.0, 0.0, 0.0]], dtype=np.float32)
    write_probs(str(tmp_path / "out"), "vid-1", scores)
    lines = (tmp_path / "out" / "vid-1.probs").read_text().splitlines()
    assert lines[1] == "-1.098612 -1.098612 -1.098612"
    read = np.loadtxt(tmp_path / "out" / "vid-1.probs")
    np.testing.assert_allclose(read, log_softmax(scores, axis=1), atol=1e-6)
    assert (read < 0).all()
