"""Features in the layouts of others: datasets of ours written as theirs, theirs read as ours.

`exporting` and `importing` do what all formats share; `choice` picks a format's module.
"""
