"""Prints what pyproject.toml requires, with extras: a layer that changes with it alone.

Ray's dashboard is always added: `ray job submit`, the autoscaler and Ray's metrics live in it.
"""

import argparse
import re
import sys
import tomllib
from pathlib import Path


def requirements(pyproject: str, extras: list[str], without: list[str]) -> list[str]:
    """The project's dependencies and those of the extras. Raises KeyError for an unknown extra."""
    project = tomllib.loads(pyproject)["project"]
    wanted = [*project["dependencies"], "ray[default]"]
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    return [line for line in wanted if re.split(r"[\[<>=~! ;]", line)[0] not in without]


def main() -> None:
    """Reads pyproject.toml of the current folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("extras", nargs="*")
    parser.add_argument("--without", action="append", default=[], metavar="PACKAGE")
    options = parser.parse_args()
    pyproject = Path("pyproject.toml").read_text(encoding="utf-8")
    lines = requirements(pyproject, options.extras, options.without)
    sys.stdout.write("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main()
