"""How the files of docker/deploy/ were made: the arguments of `pipeline render`."""

IMAGE = ("--image", "registry.example/pipeline:cuda")
SETUP = ("--setup", "source /shared/venv/bin/activate")

RENDERED = {
    "rayjob-extract.yaml": (
        "rayjob", "extract", *IMAGE, "--input", "s3://pipeline/videos",
        "--output", "s3://pipeline/data", "--workers", "8",
    ),
    "rayjob-train.yaml": (
        "rayjob", "train", *IMAGE, "--dataset", "s3://pipeline/data",
        "--output", "s3://pipeline/run", "--workers", "4",
    ),
    "rayjob-index.yaml": (
        "rayjob", "index", *IMAGE, "--dataset", "s3://pipeline/data",
        "--model", "s3://pipeline/run", "--output", "s3://pipeline/index", "--workers", "4",
    ),
    "extract.sbatch": (
        "sbatch", "extract", "--input", "/shared/videos", "--output", "/shared/data",
        "--nodes", "2", "--workers", "8", *SETUP,
    ),
    "extract-array.sbatch": (
        "sbatch", "extract", "--input", "/shared/videos", "--output", "/shared/data",
        "--array", "100", "--workers", "1", *SETUP,
    ),
    "train.sbatch": (
        "sbatch", "train", "--dataset", "/shared/data", "--output", "/shared/run",
        "--nodes", "2", "--workers", "4", *SETUP,
    ),
    "index.sbatch": (
        "sbatch", "index", "--dataset", "/shared/data", "--model", "/shared/run",
        "--output", "/shared/index", "--nodes", "2", "--workers", "4", *SETUP,
    ),
}  # fmt: skip
