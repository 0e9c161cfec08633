"""Follows Dockerfile.cpu without a container engine, on a bare Debian root, to a first extraction.

    sudo python docker/check_cpu_recipe.py --work /tmp/recipe

debootstrap makes a root of the base image's Debian release with Debian's own Python of the same
minor version. Every instruction of the Dockerfile is then followed in order: each stage on an
overlay over what it starts FROM, RUN by chroot with the environment, folder and user that the
Dockerfile says, COPY through the .dockerignore. What the image would run is run in the last stage:
its command, its health check, an extraction of three of the demo's videos, `verify` and a second
extraction that finds nothing to do. --work is removed at the end; it takes up to 20 GB where
TORCH_INDEX gives torch with CUDA.

Needs root, debootstrap, unshare, chroot and overlayfs. What differs from an engine's build: Python
is Debian's, not the base image's own; nothing limits the processes; the network is this machine's.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import Template
from typing import Any

import dockerfile
from docker.utils.build import exclude_paths

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "docker" / "Dockerfile.cpu"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LIKE_AN_ENGINE = (Path("/etc/resolv.conf"), Path("/etc/hosts"))
"""Files of the host that an engine puts into every container too."""

COPY_VIDEOS = """
import importlib.resources, os, shutil
os.mkdir("videos")
for name in ("cat_01.mp4", "cat_02.mp4", "cat_02.srt", "rocket_01.mp4"):
    shutil.copy(importlib.resources.files("pipeline") / "demo_corpus" / "videos" / name, "videos")
"""
"""Three of the videos that the package has, into the folder of an image's user."""

Environment = dict[str, str]


@dataclass(frozen=True)
class Step:
    """One instruction."""

    name: str
    """RUN, COPY …"""
    flags: dict[str, str]
    """`--from=wheel` as from: wheel."""
    words: tuple[str, ...]
    line: int


@dataclass(frozen=True)
class Stage:
    """What a FROM begins."""

    name: str
    base: str
    """Another stage's name, or an image's."""
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Image:
    """What the steps of a stage have decided so far."""

    root: Path
    """Where its files are seen."""
    layers: tuple[Path, ...]
    """Of its files, the uppermost first."""
    environment: Environment = field(default_factory=lambda: {"PATH": PATH})
    arguments: Environment = field(default_factory=dict)
    folder: str = "/"
    user: str = "0:0"
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    health: tuple[str, ...] = ()


@dataclass(frozen=True)
class Build:
    """What all stages share."""

    work: Path
    arguments: Environment
    """Given from outside, in place of the Dockerfile's defaults."""
    binds: tuple[Path, ...]
    """Files and folders of the host, seen at the same place in every root."""
    passed: Environment
    """Variables of the host that RUN sees too."""
    context: tuple[str, ...]
    """Paths that the .dockerignore lets through."""


def read_stages(text: str, given: Environment) -> tuple[Stage, ...]:
    """The stages of a Dockerfile, their bases' names filled in. Raises SystemExit for what is not
    understood here."""
    found = [_step(command) for command in dockerfile.parse_string(text)]
    arguments: Environment = {}
    stages: list[Stage] = []
    for step in found:
        if step.name == "FROM":
            base, *rest = step.words
            name = rest[1] if rest else str(len(stages))
            stages.append(Stage(name, Template(base).substitute(arguments), ()))
        elif not stages:
            arguments |= _argument(step, given)
        else:
            stages[-1] = replace(stages[-1], steps=(*stages[-1].steps, step))
    return tuple(stages)


def _step(command: Any) -> Step:
    flags = dict(flag.removeprefix("--").split("=", 1) for flag in command.flags)
    return Step(command.cmd.upper(), flags, tuple(command.value), command.start_line)


def _argument(step: Step, given: Environment) -> Environment:
    name, _, default = step.words[0].partition("=")
    return {name: given.get(name, default)}


def read_context(ignore: Path) -> tuple[str, ...]:
    """Paths below the repository that its .dockerignore lets through."""
    lines = [line.strip() for line in ignore.read_text(encoding="utf-8").splitlines()]
    patterns = [line for line in lines if line and not line.startswith("#")]
    return tuple(sorted(exclude_paths(str(ROOT), patterns)))


def decide(image: Image, step: Step, given: Environment) -> Image:
    """The image after an instruction that changes no file, and after ENV, USER and WORKDIR.

    Raises SystemExit for an instruction that is not understood here."""
    known = image.arguments | image.environment
    words = tuple(step.words)
    match step.name:
        case "ARG":
            return replace(image, arguments=image.arguments | _argument(step, given))
        case "ENV":
            values = [Template(value).substitute(known) for value in words[1::2]]
            added = dict(zip(words[::2], values, strict=True))
            return replace(image, environment=image.environment | added)
        case "WORKDIR":
            return replace(image, folder=os.path.join(image.folder, words[0]))
        case "USER":
            return replace(image, user=words[0])
        case "ENTRYPOINT":
            return replace(image, entrypoint=words)
        case "CMD":
            return replace(image, command=words)
        case "HEALTHCHECK":
            return replace(image, health=words[1:])
        case "EXPOSE" | "VOLUME" | "RUN" | "COPY":
            return image
    raise SystemExit(f"line {step.line}: {step.name} is not understood here")


def build(stages: Sequence[Stage], base: Image, what: Build) -> Image:
    """Follows all stages; gives the last one's image. What is no stage's name is the base."""
    made: dict[str, Image] = {}
    for stage in stages:
        below = made.get(stage.base, base)
        layers = (what.work / "made" / stage.name, *below.layers)
        image = replace(below, root=what.work / "seen" / stage.name, layers=layers)
        mount_image(image, what)
        for step in stage.steps:
            say(f"{stage.name}: {step.name} {' '.join(step.words)[:90]}")
            image = decide(image, step, what.arguments)
            follow(image, step, made, what)
        made[stage.name] = image
    return made[stages[-1].name]


def follow(image: Image, step: Step, made: dict[str, Image], what: Build) -> None:
    """Does what an instruction does to the files."""
    if step.name == "RUN":
        mounts = [dict(p.split("=", 1) for p in v.split(",")) for v in step.flags.values()]
        command = ("/bin/sh", "-c", *step.words)
        with mounted(image, mounts, made, what):
            run(image, command, image.arguments | what.passed)
    elif step.name == "WORKDIR":
        inside(image, "/").joinpath(image.folder[1:]).mkdir(parents=True, exist_ok=True)
    elif step.name == "COPY" and "from" in step.flags:
        source, target = step.words
        copied = [f"{inside(made[step.flags['from']], source)}/.", f"{inside(image, target)}/"]
        inside(image, target).mkdir(parents=True, exist_ok=True)
        host("cp", "--archive", *copied)
    elif step.name == "COPY":
        copy(step.words[:-1], step.words[-1], image, what.context)


def copy(sources: Sequence[str], target: str, image: Image, context: Sequence[str]) -> None:
    """COPY from the repository: a file to a file or into a folder, of a folder what is in it."""
    place = inside(image, os.path.join(image.folder, target))
    for source in sources:
        top = ROOT / source
        chosen = [p for p in context if (ROOT / p).is_file() and (ROOT / p).is_relative_to(top)]
        if not chosen:
            raise SystemExit(f"COPY {source}: nothing there that the .dockerignore lets through")
        for path in map(ROOT.joinpath, chosen):
            into = path.name if target.endswith("/") else ""
            copied = place / (path.relative_to(top) if top.is_dir() else into)
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copied)


def run(image: Image, command: Sequence[str], more: Environment) -> None:
    """Runs a command in an image as its user. Raises SystemExit where it fails."""
    environment = [f"{k}={v}" for k, v in (image.environment | more | _home(image)).items()]
    chroot = ["chroot", f"--userspec={image.user}", "--groups=", str(image.root)]
    where = ["/usr/bin/env", "-i", f"--chdir={image.folder}", *environment]
    code = subprocess.run([*chroot, *where, *command], check=False).returncode
    if code:
        raise SystemExit(f"exit code {code} of: {' '.join(command)}")


def host(*command: str) -> None:
    """Runs a program of this machine. Raises SystemExit where it fails."""
    code = subprocess.run(command, check=False).returncode
    if code:
        raise SystemExit(f"exit code {code} of: {' '.join(command)}")


def _home(image: Image) -> Environment:
    """As an engine takes it from /etc/passwd."""
    lines = (image.root / "etc" / "passwd").read_text(encoding="utf-8").splitlines()
    homes = {fields[2]: fields[5] for fields in (line.split(":") for line in lines)}
    return {"HOME": homes.get(image.user.split(":")[0], "/")}


def inside(image: Image, path: str) -> Path:
    """Where a path of an image is on the host."""
    return image.root / os.path.normpath(path).lstrip("/")


def mount_image(image: Image, what: Build) -> None:
    """Its layers one over the other, the kernel's folders, and what the host lends."""
    upper, scratch = image.layers[0], what.work / "scratch" / image.root.name
    for folder in (image.root, upper, scratch):
        folder.mkdir(parents=True)
    lower = ":".join(map(str, image.layers[1:]))
    options = f"lowerdir={lower},upperdir={upper},workdir={scratch}"
    host("mount", "-t", "overlay", "overlay", "-o", options, str(image.root))
    for folder in ("proc", "dev"):
        host("mount", "--rbind", f"/{folder}", str(image.root / folder))
    for path in (*LIKE_AN_ENGINE, *what.binds):
        bind(path, inside(image, str(path)))


def bind(source: Path, target: Path) -> None:
    """Shows a file or folder at a second place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        target.mkdir(exist_ok=True)
    else:
        target.touch()
    host("mount", "--bind", str(source), str(target))


@contextmanager
def mounted(
    image: Image, mounts: Sequence[Environment], made: dict[str, Image], what: Build
) -> Iterator[None]:
    """`RUN --mount`: a cache that all stages share, or a folder of another stage."""
    targets = []
    for one in mounts:
        source = what.work / "cache"
        if one.get("type") != "cache":
            source = inside(made[one["from"]], one["source"])
        source.mkdir(exist_ok=True)
        targets.append(inside(image, one["target"]))
        bind(source, targets[-1])
    yield
    for target in targets:
        host("umount", str(target))


def base_image(name: str, what: Build, mirror: str | None, debian: Path | None) -> Image:
    """The Debian release and Python version that a name like python:3.11-slim-bookworm says, with
    what that image has beside Python: its headers, certificates, names of networks, time zones."""
    version, _, release = name.removeprefix("python:").split("-")
    if debian is None:
        say(f"debootstrap of {release}")
        debian = what.work / "debian"
        host(
            "debootstrap", "--variant=minbase", release, str(debian), *([mirror] if mirror else [])
        )
    image = Image(what.work / "seen" / "base", (what.work / "made" / "base", debian))
    mount_image(image, replace(what, binds=()))  # a file that is bound cannot be installed
    python = f"python{version}"
    packages = f"{python} {python}-dev {python}-venv ca-certificates netbase tzdata"
    install = f"apt-get update && apt-get install --no-install-recommends --yes {packages}"
    say(f"base: {install}")
    run(image, ("/bin/sh", "-c", install), what.passed)
    inside(image, "/usr/local/bin/python").symlink_to(f"/usr/bin/{python}")
    return image


def check(image: Image, passed: Environment) -> None:
    """Runs what a container of the image would: as its user, by its entry point."""

    def pipeline(*words: str) -> None:
        say(f"{' '.join(image.entrypoint)} {' '.join(words)}")
        run(image, (*image.entrypoint, *words), passed)

    pipeline(*image.command)
    run(image, image.health, passed)
    run(image, ("python", "-c", COPY_VIDEOS), passed)
    extract = ("run", "extract", "--input", "videos", "--output", "features")
    pipeline(*extract)
    pipeline("verify", "features")
    pipeline(*extract)
    card = inside(image, os.path.join(image.folder, "features/dataset.json"))
    owner = f"{card.stat().st_uid}:{card.stat().st_gid}"
    if owner != image.user:
        raise SystemExit(f"{card}: belongs to {owner}, not to {image.user}")


def say(text: str) -> None:
    """With the seconds since the start."""
    sys.stderr.write(f"[{time.monotonic() - STARTED:5.0f} s] {text}\n")


STARTED = time.monotonic()


def main() -> None:
    """Mounts are the process's own (unshare), and gone with it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="Folder that is not there yet.")
    parser.add_argument("--keep", action="store_true", help="Leave --work as it is at the end.")
    parser.add_argument("--mirror", help="Of Debian's packages; else debootstrap's own.")
    parser.add_argument("--debian", type=Path, help="A root that debootstrap made; is not changed.")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument(
        "--bind", action="append", default=[], type=Path, metavar="PATH",
        help="File or folder of this machine that every root sees too, as pip's settings.",
    )  # fmt: skip
    parser.add_argument(
        "--pass", action="append", default=[], dest="passed", metavar="NAME",
        help="Variable of this machine that every RUN sees too, as PIP_INDEX_URL.",
    )  # fmt: skip
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.inside:
        if options.work.exists():
            parser.error(f"--work {options.work}: is there already")
        command = ["unshare", "--mount", sys.executable, *sys.argv, "--inside"]
        try:
            sys.exit(subprocess.run(command, check=False).returncode)
        finally:
            if not options.keep:
                shutil.rmtree(options.work, ignore_errors=True)
    follow_recipe(options)


def follow_recipe(options: argparse.Namespace) -> None:
    """All of it."""
    given = dict(one.split("=", 1) for one in options.build_arg)
    passed = {"DEBIAN_FRONTEND": "noninteractive"}
    passed |= {name: os.environ[name] for name in options.passed if name in os.environ}
    ignore = RECIPE.with_name(f"{RECIPE.name}.dockerignore")
    work = options.work.absolute()
    work.mkdir(parents=True)
    what = Build(work, given, tuple(options.bind), passed, read_context(ignore))
    stages = read_stages(RECIPE.read_text(encoding="utf-8"), given)
    base = base_image(stages[0].base, what, options.mirror, options.debian)
    image = build(stages, base, what)
    check(image, passed)
    say("done")


if __name__ == "__main__":
    main()
