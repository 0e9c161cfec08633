"""training.protocols.labelled_sets on small folders as the sets' archives unpack them."""

from pathlib import Path

import pytest

from extractors.errors import UsageError
from training.protocols.labelled_sets import count_parts, read_labelled_set


def put(folder: Path, **files: str) -> None:
    """Files by path."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def media(folder: Path, *paths: str) -> None:
    for path in paths:
        put(folder, **{path: ""})


def told(folder: Path, name: str) -> dict[str, tuple[str, tuple[str | None, ...], str]]:
    found = read_labelled_set(name, str(folder))
    return {file.path: (file.label, file.parts, file.group) for file in found.files}


@pytest.fixture
def ucf101(tmp_path: Path) -> Path:
    lists = {
        "classInd.txt": "1 ApplyEyeMakeup\r\n2 Archery\r\n",
        "trainlist01.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\r\n"
        "Archery/v_Archery_g02_c01.avi 2\r\n",
        "testlist01.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c02.avi\r\n"
        "Archery/v_Archery_g09_c01.avi\r\n",
        "trainlist02.txt": "Archery/v_Archery_g09_c01.avi 2\n\n",
        "testlist02.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi\n",
    }
    put(tmp_path, **{f"ucfTrainTestlist/{name}": text for name, text in lists.items()})
    media(
        tmp_path,
        "UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi",
        "UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c02.avi",
        "UCF-101/Archery/v_Archery_g02_c01.avi",
    )
    return tmp_path


def test_ucf101(ucf101: Path) -> None:
    found = read_labelled_set("ucf101", str(ucf101))
    assert found.splits == ("1", "2")
    assert found.missing == ("Archery/v_Archery_g09_c01.avi",)
    assert told(ucf101, "ucf101") == {
        "UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c02.avi": (
            "ApplyEyeMakeup", ("test", None), "ApplyEyeMakeup 01",
        ),
        "UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi": (
            "ApplyEyeMakeup", ("train", "test"), "ApplyEyeMakeup 08",
        ),
        "UCF-101/Archery/v_Archery_g02_c01.avi": ("Archery", ("train", None), "Archery 02"),
    }  # fmt: skip
    assert count_parts(found) == {"1": {"train": 2, "test": 1}, "2": {"train": 0, "test": 1}}


def test_hmdb51_leaves_out_what_a_split_leaves_out(tmp_path: Path) -> None:
    odd = "(Rad)Schlag_die_Bank!_cartwheel_f_cm_np1_le_med_0.avi"
    put(
        tmp_path,
        **{
            "splits/testTrainMulti_7030_splits/brush_hair_test_split1.txt": "a.avi 1 \nb.avi 0 \n",
            "splits/testTrainMulti_7030_splits/brush_hair_test_split2.txt": "a.avi 2 \nb.avi 1 \n",
            "splits/testTrainMulti_7030_splits/cartwheel_test_split1.txt": f"a.avi 2\n{odd} 1\n",
            "splits/testTrainMulti_7030_splits/cartwheel_test_split2.txt": f"a.avi 0\n{odd} 2\n",
        },
    )
    # the same name in two classes is two videos
    media(tmp_path, "hmdb51_org/brush_hair/a.avi", "hmdb51_org/brush_hair/b.avi")
    media(tmp_path, "hmdb51_org/cartwheel/a.avi", f"hmdb51_org/cartwheel/{odd}")
    assert told(tmp_path, "hmdb51") == {
        "hmdb51_org/brush_hair/a.avi": ("brush_hair", ("train", "test"), ""),
        "hmdb51_org/brush_hair/b.avi": ("brush_hair", (None, "train"), ""),
        "hmdb51_org/cartwheel/a.avi": ("cartwheel", ("test", None), ""),
        f"hmdb51_org/cartwheel/{odd}": ("cartwheel", ("train", "test"), ""),
    }


def test_esc50_tests_each_fold_once(tmp_path: Path) -> None:
    rows = [
        "filename,fold,target,category,esc10,src_file,take",
        "1-100032-A-0.wav,1,0,dog,True,100032,A",
        "2-100038-A-14.wav,2,14,chirping_birds,False,100038,A",
        "3-100038-B-14.wav,3,14,chirping_birds,False,100038,B",
    ]
    put(tmp_path, **{"ESC-50-master/meta/esc50.csv": "\n".join(rows)})
    media(tmp_path, *(f"ESC-50-master/audio/{row.split(',')[0]}" for row in rows[1:]))
    assert told(tmp_path, "esc50") == {
        "ESC-50-master/audio/1-100032-A-0.wav": ("dog", ("test", "train", "train"), "100032"),
        "ESC-50-master/audio/2-100038-A-14.wav": (
            "chirping_birds", ("train", "test", "train"), "100038",
        ),
        "ESC-50-master/audio/3-100038-B-14.wav": (
            "chirping_birds", ("train", "train", "test"), "100038",
        ),
    }  # fmt: skip


def test_dcase2014_by_its_two_folders(tmp_path: Path) -> None:
    media(tmp_path, "scenes_stereo/bus01.wav", "scenes_stereo/busystreet02.wav")
    media(tmp_path, "scenes_stereo_testset/bus01.wav", "scenes_stereo_testset/readme.txt")
    assert told(tmp_path, "dcase2014") == {
        "scenes_stereo/bus01.wav": ("bus", ("train",), ""),
        "scenes_stereo/busystreet02.wav": ("busystreet", ("train",), ""),
        "scenes_stereo_testset/bus01.wav": ("bus", ("test",), ""),
    }


def test_dcase_by_the_lists_of_its_folds(tmp_path: Path) -> None:
    put(
        tmp_path,
        **{
            "evaluation_setup/fold1_train.txt": "audio/b1.wav\tbus\naudio/c1.wav\tcafe/restaurant",
            "evaluation_setup/fold1_test.txt": "audio/b2.wav",
            "evaluation_setup/fold1_evaluate.txt": "audio/b2.wav\tbus",
            "evaluation_setup/fold2_train.txt": "audio/b2.wav\tbus\naudio/c1.wav\tcafe/restaurant",
            "evaluation_setup/fold2_evaluate.txt": "audio/b1.wav\tbus",
        },
    )
    media(tmp_path, "audio/b1.wav", "audio/b2.wav", "audio/c1.wav")
    assert told(tmp_path, "dcase2014") == {
        "audio/b1.wav": ("bus", ("train", "test"), ""),
        "audio/b2.wav": ("bus", ("test", "train"), ""),
        "audio/c1.wav": ("cafe/restaurant", ("train", "train"), ""),
    }


def test_what_is_not_of_the_format_is_refused(ucf101: Path, tmp_path: Path) -> None:
    def refused(name: str, words: str, folder: Path = ucf101) -> None:
        with pytest.raises(UsageError, match=words):
            read_labelled_set(name, str(folder))

    refused("ucf100", "no such set; there are: ucf101, hmdb51")
    refused("ucf101", "no such folder, or nothing in it", tmp_path / "nowhere")
    refused("hmdb51", "no CLASS_test_split1.txt")
    refused("esc50", "no esc50.csv")
    refused("dcase2014", "no scenes_stereo/CLASS01.wav")
    copy = "copy/Archery/v_Archery_g02_c01.avi"
    media(ucf101, copy)
    refused("ucf101", "is there twice, as UCF-101/Archery/.* and copy/Archery/")
    (ucf101 / copy).unlink()
    lists = ucf101 / "ucfTrainTestlist"
    (lists / "trainlist03.txt").write_text("v_Archery_g02_c01.avi 2")
    refused("ucf101", r"trainlist03.txt, line 1: .* wanted is CLASS/NAME.avi")
    (lists / "trainlist03.txt").write_text("Archery/v_Archery_g02_c01.avi 2")
    (lists / "testlist03.txt").write_text("Archery/v_Archery_g02_c01.avi")
    refused("ucf101", "is to be (train|test), it was (train|test) in the same split")
    only_lists = tmp_path / "lists"
    put(only_lists, **{"trainlist01.txt": "Archery/v_Archery_g02_c01.avi 2"})
    refused("ucf101", "none of the 1 files that they name, as Archery/", only_lists)
    put(only_lists, **{"x_test_split1.txt": "a.avi 3", "esc50.csv": "filename,fold\na,1"})
    refused("hmdb51", "line 1: 'a.avi 3': wanted is a name and 0, 1 or 2", only_lists)
    refused("esc50", "no columns category", only_lists)
    put(only_lists, **{"fold1_train.txt": "a.wav bus"})
    refused("dcase2014", "wanted is a path, a tab and a class", only_lists)
