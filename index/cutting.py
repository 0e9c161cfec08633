"""What a video is cut into for the index: segments of speech, windows, or shots."""

from extractors.errors import UsageError
from extractors.shots import cut_shots
from index.config import IndexConfig
from pipeline.samples import VideoSample
from training.clips import Clip, video_clips, windows


def index_clips(sample: VideoSample, config: IndexConfig) -> tuple[Clip, ...]:
    """The clips of a video, in time order, none beyond its end.

    Raises UsageError for shots of a dataset that has none under `config.shots_track`.
    """
    if config.clips == "segments":
        return video_clips(sample, config.window, config.overlap)
    shots = _shots(sample, config.shots_track) if config.clips == "shots" else ()
    return shots or windows(sample.duration, config.window, config.overlap)


def _shots(sample: VideoSample, name: str) -> tuple[Clip, ...]:
    """Those of a track of shots; none where the video has no picture."""
    if name not in sample.meta["tracks"]:
        raise UsageError(
            f"index.clips = shots: video {sample.key} has no track {name!r} "
            f"(it has {', '.join(sample.meta['tracks'])}): extract the dataset with an extractor "
            "of kind 'shots', or name it in index.shots_track"
        )
    track = sample.tracks.get(name)
    if track is not None and track.rows.shape[1] != 1:
        raise UsageError(
            f"index.shots_track = {name}: video {sample.key} has {track.rows.shape[1]} columns "
            "there, a track of kind 'shots' has 1"
        )
    spans = () if track is None else cut_shots(track)
    cut = [(max(0.0, start), min(end, sample.duration)) for start, end in spans]
    return tuple(Clip(start, end) for start, end in cut if end > start)
