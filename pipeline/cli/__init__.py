"""The command line. Each command imports its stage inside, so that `pipeline --help` is quick."""

from pipeline.cli.app import main as main
