"""What dataset.json of an import says: format, source, times, and what is known of the making."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from extractors.errors import UsageError, VideoError
from extractors.speech_config import TextChoice
from extractors.text import VERSION as TEXT_VERSION
from extractors.text import build_text_encoder
from pipeline import storage
from pipeline.config import ExtractConfig
from pipeline.dataset import read_dataset_card
from pipeline.formats.layout import FeatureSource
from pipeline.provenance import digest
from pipeline.shards import FORMAT_VERSION

VERSION = 1
"""Of what an import makes of the same files."""
FIRST_LOOK = 100
"""Videos that are opened to learn the widths of the tracks."""


@dataclass(frozen=True)
class ImportOptions:
    """What a dataset is made with, but for its source."""

    videos_per_shard: int = 64
    text: TextChoice | None = None
    """Makes the vectors of the segments; None for none."""
    keep_text: bool = False
    """Take the source's vectors as those that `text` makes."""
    features: str = ""
    """What made the features, in the user's words: a part of their fingerprints."""


def first_look(source: FeatureSource) -> dict[str, int]:
    """Columns of each track, from the first videos that can be read.

    Raises UsageError where none of them can, or a track is in none.
    """
    widths = dict.fromkeys(source.timing, 0)
    first_error: VideoError | None = None
    for video in source.videos[:FIRST_LOOK]:
        try:
            found = source.read(video)
        except VideoError as err:
            first_error = first_error or err
            continue
        for name, track in found.tracks.items():
            widths[name] = widths[name] or track.rows.shape[1]
        if all(widths.values()):
            return widths
    if first_error is not None and not any(widths.values()):
        raise UsageError(f"none of the first {len(source.videos[:FIRST_LOOK])} videos can be read; "
                         f"the first one: {first_error.message}")  # fmt: skip
    missing = ", ".join(name for name, width in widths.items() if not width)
    raise UsageError(f"{source.uri}: none of the first {FIRST_LOOK} videos has rows of {missing}; "
                     "leave it out with --track NAME=")  # fmt: skip


def known_making(
    source: FeatureSource, options: ImportOptions, widths: Mapping[str, int]
) -> dict[str, dict[str, Any]]:
    """What is known of each track's making; two imports of one kind of features are alike."""
    origin = {"imported": source.format, "features": options.features, "version": VERSION}
    made: dict[str, dict[str, Any]] = {
        name: origin | {"dim": widths[name], "timing": timing and asdict(timing)}
        for name, timing in source.timing.items()
    }
    if options.text is not None:
        made["text"] = {
            "settings": options.text.model_dump(mode="json", exclude={"vectors"}),
            "version": TEXT_VERSION,
            "weights_sha256": build_text_encoder(options.text).weights_sha256,
        }
    return made


def import_card(
    source: FeatureSource,
    options: ImportOptions,
    widths: Mapping[str, int],
    made_by: Mapping[str, dict[str, Any]],
) -> dict[str, Any]:
    """dataset.json. A track whose times differ from video to video has no start and hop here."""
    config = import_config(options)
    fingerprints = {name: digest(facts) for name, facts in made_by.items()}
    origin = {
        "format": source.format,
        "source": source.uri,
        "captions": source.captions,
        "features": options.features,
        "timing": {name: timing and asdict(timing) for name, timing in source.timing.items()},
        "text": "kept" if options.keep_text else "encoded" if options.text else "none",
    }
    return {
        "format_version": FORMAT_VERSION,
        "fingerprint": digest([FORMAT_VERSION, fingerprints, origin]),
        "imported": origin,
        "tracks": {
            name: {
                "dim": widths[name],
                "dtype": "float16",
                "start": timing and timing.start,
                "hop": timing and timing.hop,
            }
            for name, timing in source.timing.items()
        },
        "fingerprints": fingerprints,
        "config": config.model_dump(mode="json"),
    }


def import_config(options: ImportOptions) -> ExtractConfig:
    """No extractors made it; the sentence encoder of its queries is the same."""
    return ExtractConfig(videos_per_shard=options.videos_per_shard, speech=None, text=options.text)


def own_card(dataset: str) -> dict[str, Any] | None:
    """The card of an earlier import; None where nothing is. Raises UsageError for anything else."""
    for name, what in (("card.json", "a run"), ("index_infos.json", "an index")):
        if storage.exists(storage.join(dataset, name)):
            raise UsageError(f"--output {dataset}: holds {what} already; choose another folder")
    if not storage.exists(storage.join(dataset, "dataset.json")):
        return None
    card = read_dataset_card(dataset)
    if "imported" not in card:
        raise UsageError(f"--output {dataset}: holds an extracted dataset; choose another folder")
    return card


def stored_widths(card: Mapping[str, Any], names: Iterable[str]) -> dict[str, int]:
    """Columns of these tracks by an earlier import's card; 0 where it has no such track."""
    return {name: card["tracks"].get(name, {}).get("dim", 0) for name in names}


def check_same(dataset: str, known: Mapping[str, Any], card: Mapping[str, Any]) -> None:
    """Raises UsageError where an earlier import was made otherwise."""
    old, new = known["imported"], card["imported"]
    other = [name for name in new if old.get(name) != new[name]]
    if not other and known["fingerprint"] != card["fingerprint"]:
        other = ["text encoder"]
    if other:
        raise UsageError(
            f"--output {dataset}: was imported with another {', '.join(other)} "
            f"({old.get(other[0])}); choose another folder"
        )
