from pathlib import Path

import numpy as np
import pytest

from extractors.errors import AbortError
from index.append import append_records, read_config
from index.build import publish_index
from index.card import IndexCard
from index.config import IndexConfig
from index.search import open_index, search
from index.verify import verify_index
from pipeline.shards import shard_url


def append(corpus, config: IndexConfig) -> IndexCard:
    opened = open_index(corpus.output)
    return append_records(opened, config, corpus.update(config))


def live_ids(url: str) -> list[str]:
    opened = open_index(url)
    ids = np.array(opened.ids.column("id").to_pylist())
    return ids.tolist() if opened.live_N is None else ids[opened.live_N].tolist()


def changed(corpus, number: int) -> None:
    """Shard `number` is extracted anew: other vectors, and one of its videos is gone."""
    corpus.add_shard(number, tar_sha256="changed")
    before = corpus.arrays

    def arrays(asked: int):
        clips, embeddings, present = before(asked)
        if asked != number:
            return clips, embeddings, present
        moved = {name: -rows[4:] for name, rows in embeddings.items()}
        return clips[4:], moved, {name: rows[4:] for name, rows in present.items()}

    corpus.arrays = arrays


@pytest.mark.parametrize("factory", ["Flat", "IVF4,SQ8", "HNSW8", "PCA8,IVF4,Flat"])
@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_a_new_shard_is_added_and_found(corpus, factory: str, metric: str) -> None:
    config = IndexConfig(factory=factory, metric=metric)
    before = corpus.build(config)
    old = Path(corpus.output, "ids.parquet").read_bytes()
    corpus.add_shard(3, tar_sha256="tar3")
    card = append(corpus, config)
    assert corpus.embedded == [0, 1, 2, 3]
    assert card.count > before.count
    assert card.masked == 0
    assert card.dataset_digest != before.dataset_digest
    assert Path(corpus.output, "ids.parquet").read_bytes() != old
    opened = open_index(corpus.output)
    added = [row for row in opened.ids.to_pylist() if row["key"].startswith("v3_")]
    assert len(added) == card.count - before.count
    clips, embeddings, present = corpus.arrays(3)
    row = next(i for i in range(len(clips)) if present["video"][i] and present["audio"][i])
    query_D = embeddings["video"][row] + embeddings["audio"][row]
    assert search(opened, query_D, 1)[0].id == clips[row].id
    assert verify_index(corpus.output) == []


def test_the_rows_of_a_changed_shard_are_masked_and_replaced(corpus) -> None:
    config = IndexConfig(factory="Flat")
    before = corpus.build(config)
    gone = [i for i in live_ids(corpus.output) if i.startswith("v1_0@")]
    assert gone
    changed(corpus, 1)
    card = append(corpus, config)
    assert corpus.embedded == [0, 1, 2, 1]
    block = before.blocks[1]
    assert card.masked == block.count
    assert [b.masked for b in card.blocks] == [False, True, False, False]
    assert not set(gone) & set(live_ids(corpus.output))
    opened = open_index(corpus.output)
    everything = search(opened, np.ones(16), k=10_000)
    assert len(everything) == card.count - card.masked
    assert sorted(hit.id for hit in everything) == sorted(live_ids(corpus.output))
    assert search(opened, np.ones(16), 10, {"video": "v1_0"}) == []
    assert verify_index(corpus.output) == []


def prune(corpus, number: int) -> None:
    """The shard has lost all its videos."""
    Path(shard_url(corpus.dataset, number, "_stats.json")).unlink()


def test_the_rows_of_a_shard_that_is_gone_are_masked(corpus) -> None:
    config = IndexConfig(factory="Flat")
    before = corpus.build(config)
    prune(corpus, 2)
    (problem,) = verify_index(corpus.output)
    assert problem.startswith("shard 000002: in the index, but not in")
    assert problem.endswith("run `pipeline index append`")
    card = append(corpus, config)
    assert corpus.embedded == [0, 1, 2]
    assert [block.masked for block in card.blocks] == [False, False, True]
    assert card.masked == before.blocks[2].count
    assert not [name for name in live_ids(corpus.output) if name.startswith("v2_")]
    assert sorted(path.name for path in Path(corpus.output, "embeddings").iterdir()) == [
        f"{number:06d}{suffix}" for number in (0, 1) for suffix in (".parquet", "_stats.json")
    ]
    assert verify_index(corpus.output) == []
    corpus.add_shard(2, tar_sha256="tar2")  # it comes back
    assert append(corpus, config).count == before.count + before.blocks[2].count
    assert verify_index(corpus.output) == []


def test_compaction_frees_a_shard_that_is_gone(corpus) -> None:
    corpus.build(IndexConfig())
    prune(corpus, 0)
    card = corpus.build(IndexConfig())
    assert ([block.shard for block in card.blocks], card.masked) == ([1, 2], 0)
    assert verify_index(corpus.output) == []


def test_compaction_gives_the_bytes_of_a_fresh_build(corpus, tmp_path: Path) -> None:
    config = IndexConfig(factory="IVF4,Flat")
    corpus.build(config)
    changed(corpus, 1)
    append(corpus, config)
    assert Path(corpus.output, "mask.npy").exists()
    card = publish_index(
        corpus.output, config, corpus.update(config), dataset=corpus.dataset, run="/run"
    )
    assert card.masked == 0
    assert not Path(corpus.output, "mask.npy").exists()
    corpus.output = str(tmp_path / "fresh")
    fresh = corpus.build(config)
    assert (card.index_sha256, card.ids_sha256) == (fresh.index_sha256, fresh.ids_sha256)


def test_appending_twice_changes_nothing(corpus) -> None:
    config = IndexConfig()
    corpus.build(config)
    corpus.add_shard(3, tar_sha256="tar3")
    first = append(corpus, config)
    assert append(corpus, config) == first
    changed(corpus, 0)
    assert append(corpus, config).blocks[-1].first == first.count
    assert verify_index(corpus.output) == []


def test_a_changed_mask_is_refused(corpus) -> None:
    config = IndexConfig()
    corpus.build(config)
    changed(corpus, 1)
    append(corpus, config)
    path = Path(corpus.output, "mask.npy")
    np.save(path, ~np.load(path))
    with pytest.raises(AbortError, match=r"mask\.npy: sha256"):
        open_index(corpus.output)


def test_the_settings_of_an_index_are_read_back(corpus) -> None:
    config = IndexConfig(metric="l2", seed=3)
    corpus.build(config)
    assert read_config(corpus.output) == config
    Path(corpus.output, "config.yaml").write_text("colour: red")
    with pytest.raises(AbortError, match="not the settings of an index"):
        read_config(corpus.output)
    Path(corpus.output, "config.yaml").unlink()
    with pytest.raises(AbortError, match="missing"):
        read_config(corpus.output)
