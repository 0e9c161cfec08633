"""README.md of embeddings as a Hugging Face dataset, for `datasets.load_dataset` and people."""

import yaml

from index.card import IndexCard

_TEXT = """\
# Embeddings of clips

{clips:,} clips of {videos:,} videos, one row each, in {dimension} dimensions.

| column | meaning |
|---|---|
| `id` | `KEY@start-end`, in seconds |
| `key`, `uri`, `start`, `end` | the video, where it was, the interval in it, in seconds |
| `text`, `language` | what is said in the clip, null where nothing is |
| `label`, `split` | as the source listed the video |
| `video_embedding`, `audio_embedding`, `text_embedding` | null where the clip has none |
| `sum_embedding` | the sum of the {indexed}: what was indexed, by {metric} |

Model `{model}`, dataset `{dataset}`.
"""


def dataset_readme(card: IndexCard, clips: int, size_bytes: int) -> str:
    """Where the parquets are, how many rows they hold (which `datasets` checks), what they mean."""
    header = {
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": "train", "path": "data/*.parquet"}],
            }
        ],
        "dataset_info": {
            "splits": [{"name": "train", "num_bytes": size_bytes, "num_examples": clips}],
            "download_size": size_bytes,
            "dataset_size": size_bytes,
        },
    }
    text = _TEXT.format(
        clips=clips,
        videos=card.videos,
        dimension=card.dimension,
        indexed=" and ".join(f"`{name}_embedding`" for name in card.target_modalities),
        metric=card.metric,
        model=card.model_digest[:12],
        dataset=card.dataset_digest[:12],
    )
    return f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n\n{text}"
