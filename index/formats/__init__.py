"""Embeddings in the layouts of others: an index of ours written as theirs, theirs read as ours.

`layouts` says what each looks like; `exporting` writes them; `sources` reads them and `importing`
makes of them what an index is built from.
"""
