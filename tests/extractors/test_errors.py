"""A failure keeps its reason on its way through a worker."""

import pickle

from extractors.errors import PipelineError, Reason, VideoError


def test_a_video_error_survives_the_way_to_another_process():
    error = VideoError(Reason.TRUNCATED, "decode", "a.mp4: 1 s of 2 s are there")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.reason, copy.stage, copy.message) == (error.reason, error.stage, error.message)
    assert str(copy) == "decode: truncated: a.mp4: 1 s of 2 s are there"
    assert isinstance(copy, PipelineError)
