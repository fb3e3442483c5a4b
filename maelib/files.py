"""Files that are whole or not there at all, and the folder for those that can be made again."""

import os
from pathlib import Path


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that no reader, and no crash, ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def cache_folder() -> Path:
    """Where what is drawn or fetched is kept between runs: `$MAELIB_CACHE`, else `maelib` in the user's cache."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "maelib"
    return Path(os.environ.get("MAELIB_CACHE", default))


def data_folder() -> Path:
    """Where the bundled model and facades lie: `data/` of the repository, or inside the installed package."""
    package = Path(__file__).parent
    repository = package.parent / "data"
    return repository if (repository / "checkpoints").is_dir() else package / "_data"
