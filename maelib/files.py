"""Files that are written whole or not at all, downloads, archives, and JSON that becomes a dataclass again."""

import json
import os
import reprlib
import shutil
import sys
import tempfile
import zipfile
from dataclasses import is_dataclass
from http.client import HTTPException
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints
from urllib.error import HTTPError
from urllib.request import Request, urlopen


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that neither a reader nor a crash ever leaves half of it."""
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
    """Folder for files that can be drawn or downloaded again: `$MAELIB_CACHE`, else `maelib` in the user's cache."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "maelib"
    return Path(os.environ.get("MAELIB_CACHE", default))


def data_folder() -> Path:
    """Folder of the bundled model and facades: `data/` of the repository, or a part of the installed package."""
    package = Path(__file__).parent
    repository = package.parent / "data"
    return repository if (repository / "checkpoints").is_dir() else package / "_data"


def download(url: str, path: Path) -> Path:
    """Download `url` to `path`, unless the file is there already, and return `path`.

    The bytes arrive in `path` + `.partial`. When the connection breaks, that file stays, and the next call asks the
    server for the rest alone.

    Parameters
    ----------
    url : str
        Address that begins with http:// or https://.
    path : Path
        The file appears here when it is complete. Missing folders are made.

    Raises
    ------
    ConnectionError
        When the server refuses, or the download cannot be finished. The message names address, fault and cure.
    """
    from tqdm import tqdm

    path, partial = Path(path), Path(f"{path}.partial")
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    have = partial.stat().st_size if partial.is_file() else 0
    headers = {"User-Agent": "maelib"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        with urlopen(Request(url, headers=headers), timeout=60) as answer:
            have = have if answer.status == 206 else 0  # any other status sends the whole file
            length = answer.headers.get("Content-Length")
            total = have + int(length) if length else None
            progress = {"total": total, "initial": have, "unit": "B", "unit_scale": True, "desc": partial.stem}
            with partial.open("ab" if have else "wb") as file, tqdm.wrapattr(file, "write", **progress) as out:
                shutil.copyfileobj(answer, out)
                file.flush()
                os.fsync(file.fileno())
        if total is not None and (size := partial.stat().st_size) < total:
            raise ConnectionError(f"the connection ended after {size} of {total} bytes")
    except HTTPError as error:
        if have and error.code == 416:  # the file on the server is no longer than what is here: begin anew
            partial.unlink(missing_ok=True)
            return download(url, path)
        cure = "check the address, or try again later"
        raise ConnectionError(f"{url}: the server answers {error.code} {error.reason}; {cure}") from error
    except (OSError, HTTPException) as error:
        cure = "check the network and the disk, then start again: the download goes on where it stopped"
        raise ConnectionError(f"{url}: cannot be downloaded to {partial} ({error}); {cure}") from error
    os.replace(partial, path)
    return path


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack a zip archive into the new `folder`, all of it or nothing, and return `folder`.

    `zipfile` itself keeps every member inside the folder, and writes a link as a file.

    Raises
    ------
    ValueError
        When the archive is damaged, or the folder cannot be written.
    """
    try:
        with (
            zipfile.ZipFile(archive) as members,
            tempfile.TemporaryDirectory(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent) as scratch,
        ):
            members.extractall(Path(scratch, "all"))
            os.replace(Path(scratch, "all"), folder)
    except Exception as error:  # zipfile raises nearly anything on damaged archives
        cure = f"see that {folder} can be made there, or delete the archive and download it again"
        raise ValueError(f"{archive}: cannot be unpacked ({error}); {cure}") from error
    return folder


def read_json(text: str | bytes, name: str = "it") -> Any:
    """The value of a JSON text in UTF-8, which error messages call `name`.

    Raises
    ------
    ValueError
        When the text is not JSON, or is nested too deeply for Python.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is not JSON ({error})") from error


def from_json(kind: Any, value: Any, name: str) -> Any:
    """A `value` read from JSON, as the type `kind` that it was written from.

    `kind` is a dataclass, whose missing entries take their defaults; a tuple of one type; a `Literal`, `Path`, `str`,
    `bool`, `int` or `float`; or one of these `| None`. Floats must be finite.

    Raises
    ------
    ValueError
        When the value has another type, or holds entries that the dataclass lacks. The message calls it `name`.
    """
    origin, options = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return None if value is None else from_json(options[0], value, name)
    if is_dataclass(kind) and isinstance(value, dict):
        hints = get_type_hints(kind)
        if unknown := sorted(value.keys() - hints.keys()):
            raise ValueError(f"{name} has the entries {reprlib.repr(unknown)}, which this version lacks; remove them")
        return kind(**{key: from_json(hints[key], entry, key) for key, entry in value.items()})
    if origin is tuple and isinstance(value, list) and (options[-1] is ... or len(options) == len(value)):
        return tuple(from_json(options[0], entry, name) for entry in value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    fits = value in options if origin is Literal else type(value) is kind
    if kind is float:
        fits = type(value) in (int, float) and abs(value) <= sys.float_info.max
    if fits:
        return value
    wanted = kind.__name__ if origin is None else str(kind).replace("typing.", "")
    raise ValueError(f"{name} is {reprlib.repr(value)}, expected {wanted}")
