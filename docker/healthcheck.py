"""Whether `pipeline serve` answers; a container that runs another command is healthy."""

import sys
import urllib.request
from pathlib import Path

DEFAULT_PORT = "8080"


def served_port(arguments: list[str]) -> str | None:
    """The port of a `… serve …` command line; None where it is no server."""
    if "serve" not in arguments:
        return None
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument == "--port":
            return following
        if argument.startswith("--port="):
            return argument.removeprefix("--port=")
    return DEFAULT_PORT


def healthy(arguments: list[str]) -> bool:
    """Asks the server of this command line."""
    port = served_port(arguments)
    if port is None:
        return True
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def main() -> None:
    """Looks at process 1: the container's command, or its init with that command."""
    arguments = Path("/proc/1/cmdline").read_text(encoding="utf-8").split("\0")
    sys.exit(0 if healthy(arguments) else 1)


if __name__ == "__main__":
    main()
