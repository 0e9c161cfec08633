"""Views, decoding and extractors: from one video file to tracks and segments.

The lowest layer: no Ray, no shards, no files of this project's own formats.
"""
