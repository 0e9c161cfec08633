"""Plan, jobs, shards, manifest, running on Ray or locally, configuration, the command line."""
