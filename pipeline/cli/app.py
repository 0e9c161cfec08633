"""The commands and what becomes of their errors."""

import logging
import signal
import sys
from types import FrameType

import typer

from extractors.errors import PipelineError, UsageError
from pipeline.cli import (
    checkpoints,
    datasets,
    demo,
    embeddings,
    evaluate,
    extractors,
    failures,
    formats,
    indexes,
    inspection,
    probes,
    regeneration,
    render,
    report,
    run,
    search,
    serve,
    show,
)

HELP = "Raw videos to features, to a learned space of video, sound and speech, to search."

# plain help: rich panels would cost it a tenth of a second of imports
app = typer.Typer(
    help=HELP, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None
)
app.add_typer(run.app, name="run", help="The three stages, and all of them.")
app.add_typer(evaluate.app, name="evaluate", help="How good a run is, on held-out data.")
evaluate.app.command(name="list")(probes.list_set)
evaluate.app.command()(probes.tracks)
evaluate.app.command()(probes.finetune)
app.add_typer(indexes.app, name="index", help="Keeping an index up to date and sound.")
app.add_typer(embeddings.app, name="embeddings", help="Vectors to other programs and from them.")
app.add_typer(
    checkpoints.app, name="checkpoint", help="Checkpoints of MCN's released code, to runs and back."
)
app.add_typer(datasets.weights_app, name="weights", help="Pretrained weights.")
app.add_typer(render.app, name="render", help="Jobs for clusters, as text.")
app.command()(search.search)
app.command()(serve.serve)
app.command()(datasets.status)
app.command()(failures.errors)
app.command()(datasets.verify)
app.command()(datasets.doctor)
app.command()(inspection.inspect)
app.command()(report.report)
app.command()(formats.export)
app.command(name="import")(formats.import_features)
app.command()(regeneration.plan)
app.command()(regeneration.retry)
app.command()(regeneration.quarantine)
app.command()(extractors.extractors)
app.command()(demo.demo)


class Interrupted(BaseException):
    """SIGINT or SIGTERM: everything unwinds, children are reaped, nothing is left half written."""


def main() -> None:
    """Exit codes: 0 all done, 1 aborted, 2 wrong usage or configuration, 3 failed videos."""
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for package in ("pipeline", "training", "index"):
        logging.getLogger(package).setLevel(logging.INFO)
    try:
        app(prog_name="pipeline")  # not `python -m pipeline`, however it was started
    except PipelineError as err:
        if "--debug" in sys.argv:
            raise
        show.error(str(err))
        sys.exit(2 if isinstance(err, UsageError) else 1)
    except OSError as err:
        if "--debug" in sys.argv:
            raise
        show.error(f"{err}; what was finished is kept")
        sys.exit(1)
    except Interrupted:
        show.error("interrupted; what was finished is kept: run the same command to go on")
        sys.exit(1)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise Interrupted
