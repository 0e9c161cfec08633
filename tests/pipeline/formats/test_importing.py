import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from extractors.errors import UsageError
from extractors.speech_config import TextConfig
from pipeline.dataset import read_dataset_card, read_dataset_config, read_records
from pipeline.formats.choice import Reading, open_source
from pipeline.formats.imported_card import ImportOptions
from pipeline.formats.importing import plan_import, run_import
from pipeline.query import embed_sentences
from pipeline.verify import stale_shards, verify_dataset
from tests.pipeline.formats.conftest import CPU


@pytest.fixture
def folder(export: Callable) -> Path:
    return export("howto100m")[0]


def test_the_card_says_where_it_comes_from(folder: Path, bring: Callable) -> None:
    target, found = bring("howto100m", folder, options=ImportOptions(features="resnet of 2019"))
    card = read_dataset_card(target)
    assert card["imported"] == {
        "format": "howto100m",
        "source": str(folder),
        "captions": f"{folder}/caption.json",
        "features": "resnet of 2019",
        "timing": {
            "visual_2d": {"start": 0.5, "hop": 1.0},
            "visual_3d": {"start": 1 / 3, "hop": 2 / 3},
            "audio": {"start": 0.0, "hop": 0.01},
        },
        "text": "none",
    }
    assert card["tracks"]["audio"] == {"dim": 40, "dtype": "float16", "start": 0.0, "hop": 0.01}
    made = found[0].meta["provenance"]["visual_2d"]
    assert made["fingerprint"] == card["fingerprints"]["visual_2d"]
    assert read_dataset_config(target).wanted == {}
    assert stale_shards(target) == []


def test_fingerprints_tell_features_apart_not_lists(folder: Path, bring: Callable) -> None:
    """A run trained on one list of videos takes another of the same features."""

    def fingerprints(name: str, features: str, listed: str) -> dict[str, str]:
        reading = Reading(list_url=str(folder / listed))
        target, _ = bring("howto100m", folder, reading, ImportOptions(features=features), name)
        found: dict[str, str] = read_dataset_card(target)["fingerprints"]
        return found

    one = fingerprints("a", "x", "videos.csv")
    assert fingerprints("b", "x", "videos_without_captions.csv") == one
    assert not set(fingerprints("c", "y", "videos.csv").values()) & set(one.values())


def test_resume_reads_only_what_is_missing(folder: Path, tmp_path: Path) -> None:
    """Killed in the second shard: no half of it is there; the first is not read again."""
    target, options = str(tmp_path / "d"), ImportOptions(videos_per_shard=2)
    seen: list[bool] = []

    def stop(failed: bool) -> None:
        seen.append(failed)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with open_source("howto100m", str(folder), Reading()) as source:
        plan = plan_import(source, target, options)
        with pytest.raises(KeyboardInterrupt):
            run_import(plan, CPU, stop)
    assert sorted(p.name for p in Path(target, "shards").iterdir()) == [
        "000000.parquet", "000000.tar", "000000_stats.json"
    ]  # fmt: skip
    (first,) = read_records(target)
    for path in folder.rglob("*0_*.npz"):
        path.unlink()  # of the first shard: needed no more
    seen.clear()
    with open_source("howto100m", str(folder), Reading()) as source:
        plan = plan_import(source, target, options)
        assert [record.number for record in plan.done] == [0]
        records = run_import(plan, CPU, lambda failed: seen.append(failed))
    assert seen == [False, False]
    assert records[0] == first
    assert verify_dataset(target) == []


def test_a_longer_list_adds_shards(folder: Path, tmp_path: Path) -> None:
    target, options = str(tmp_path / "d"), ImportOptions(videos_per_shard=2)
    lines = (folder / "videos.csv").read_text().splitlines()
    sizes = []
    for count in (2, 4):
        (folder / "videos.csv").write_text("\n".join(lines[:count]) + "\n")
        (folder / "videos_without_captions.csv").unlink(missing_ok=True)
        with open_source("howto100m", str(folder), Reading()) as source:
            plan = plan_import(source, target, options)
            sizes.append([len(job.videos) for job in plan.jobs])
            run_import(plan, CPU)
    assert sizes == [[1], [2]]
    assert verify_dataset(target) == []


def test_the_same_features_give_the_same_bytes(folder: Path, bring: Callable) -> None:
    first, _ = bring("howto100m", folder, output="a")
    second, _ = bring("howto100m", folder, output="b")
    digests = [[r.tar_sha256 for r in read_records(target)] for target in (first, second)]
    assert digests[0] == digests[1]


def test_other_datasets_are_left_alone(
    folder: Path, dataset: str, bring: Callable, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="holds an extracted dataset"):
        bring("howto100m", folder, output="dataset")
    bring("howto100m", folder)
    with pytest.raises(UsageError, match=r"imported with another timing"):
        bring("howto100m", folder, Reading(hops={"2d": 0.5}))
    with pytest.raises(UsageError, match=r"imported with another timing"):
        bring("howto100m", folder, Reading(tracks={"2d": "other"}))
    (tmp_path / "run").mkdir()
    (tmp_path / "run/card.json").write_text("{}")
    with pytest.raises(UsageError, match="holds a run already"):
        bring("howto100m", folder, output="run")
    assert "imported" not in json.loads(Path(dataset, "dataset.json").read_text())


def test_text_vectors_are_those_of_queries(folder: Path, bring: Callable) -> None:
    target, found = bring("howto100m", folder, options=ImportOptions(text=TextConfig()))
    assert found[0].text is not None
    assert found[3].text is None
    ((vector,),) = embed_sentences(["two"], read_dataset_config(target), CPU)
    # padding by a batch's other sentence changes the last bits of a float32; stored as float16
    np.testing.assert_allclose(found[0].text[1], vector, atol=2e-3)
