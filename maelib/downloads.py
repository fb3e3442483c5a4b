"""Files from elsewhere: whole, checked, resumed where a connection broke, and unpacked without harm."""

import errno
import http.client
import os
import re
import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path, PurePosixPath
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from maelib.files import write_atomic

CHUNK = 1 << 18
MAX_UNPACKED = 4 << 30  # bytes
FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))  # Windows knows no quota
DISK = (*FULL, errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG, errno.EIO, errno.EISDIR)


class DownloadError(OSError):
    """A file cannot be had or cannot be trusted; the message names it, what happened, and the cure."""


def fetch(url: str, path: Path, sha256: str | None = None, tries: int = 5, wait: float = 1.0) -> Path:
    """Download `url` to `path` unless it is there, and check it. Returns `path`, a whole file.

    What arrives is kept in `path` + `.partial`; after a cut connection, and in a later call, only the rest is asked
    for. Without a `sha256` the first download is trusted: its digest is written to `path` + `.sha256`, and every later
    use is held to it.

    Parameters
    ----------
    url : str
        http or https.
    sha256 : str, optional
        Digest that the file must have, 64 hexadecimal digits.
    tries : int
        How often in a row to connect without getting further before giving up.
    wait : float
        Seconds before the second of them, doubled before each further one.

    Raises
    ------
    DownloadError
        When the file cannot be had, written or trusted. A partial download is kept for resuming, unless its digest
        is wrong.
    """
    from pooch import file_hash

    path = Path(path)
    note, partial = Path(f"{path}.sha256"), Path(f"{path}.partial")
    known = sha256 or (note.read_text(encoding="utf-8").split()[0] if note.is_file() else None)
    with _disk_errors_named(path.parent):
        if path.is_file():
            _check(path, file_hash(str(path)), known, f"delete {path.name} and {note.name} to fetch it anew")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            _transfer(url, partial, tries, wait)
            try:
                _check(partial, file_hash(str(partial)), known, f"{url} has changed, or was altered on its way")
            except DownloadError:
                partial.unlink()
                raise
            os.replace(partial, path)
        if known is None:
            write_atomic(note, f"{file_hash(str(path))}  {path.name}\n".encode())
    return path


def _check(path: Path, digest: str, known: str | None, cure: str) -> None:
    if known is not None and digest != known.lower():
        raise DownloadError(f"{path}: its sha256 is {digest}, and should be {known}; {cure}")


@contextmanager
def _disk_errors_named(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, DownloadError) or error.errno not in DISK:
            raise
        cure = "make room" if error.errno in FULL else "check the folder and its permissions"
        raise DownloadError(f"{folder}: cannot be written ({error.strerror}); {cure} and start again") from error


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _transfer(url: str, partial: Path, tries: int, wait: float) -> None:
    """Fill `partial` until the server has no more."""
    if not url.startswith(("http://", "https://")):
        raise DownloadError(f"{url}: is no address on the web; use one that begins with https://")
    most, failures = _size(partial), 0
    while True:
        try:
            return _continue(url, partial)
        except HTTPError as error:
            if error.code in (412, 416):  # the file has changed since, or is no longer than what is here
                if error.headers.get("Content-Range") == f"bytes */{_size(partial)}":
                    return None
                partial.unlink(missing_ok=True)
            elif error.code < 500 and error.code not in (408, 429):
                cure = "check the address, or look in a browser where the file has moved"
                raise DownloadError(f"{url}: the server answers {error.code} {error.reason}; {cure}") from error
            problem: Exception = error
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno in DISK:
                raise
            problem = error
        failures = 0 if _size(partial) > most else failures + 1
        most = max(most, _size(partial))
        if failures >= tries:
            raise DownloadError(
                f"{url}: gave up after {tries} tries without progress ({problem}); check the network and start again: "
                f"it goes on after the {_size(partial)} bytes that are here"
            ) from problem
        time.sleep(wait * 2 ** max(0, failures - 1))


def _continue(url: str, partial: Path) -> None:
    """One connection: append what is missing, or start over where the server cannot continue."""
    from tqdm import tqdm

    have, headers = _size(partial), {"User-Agent": "maelib"}
    if have:
        written = formatdate(partial.stat().st_mtime, usegmt=True)
        headers |= {"Range": f"bytes={have}-", "If-Unmodified-Since": written}
    with urlopen(Request(url, headers=headers), timeout=60) as answer:
        if answer.status != 206:  # the whole file, whatever was asked for
            have = 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else None
        with (
            partial.open("ab" if have else "wb") as file,
            tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=url.rsplit("/", 1)[-1]) as bar,
        ):
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
            file.flush()
            os.fsync(file.fileno())
    if total is not None and _size(partial) < total:
        raise ConnectionError(f"cut off after {_size(partial)} of {total} bytes")


def extract_zip(archive: Path, folder: Path, max_bytes: int = MAX_UNPACKED) -> Path:
    """Unpack an archive into `folder`, which must not exist yet: all of it or nothing. Returns `folder`.

    Raises
    ------
    DownloadError
        Before anything is written, when the archive is cut short, would unpack to more than `max_bytes`, or has a
        member that is a link or would land outside `folder`; later, when contents fail their checksums or the disk
        is full.
    FileExistsError
        When `folder` exists.
    """
    archive, folder = Path(archive), Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} exists already; delete it to unpack {archive.name} anew")
    try:
        with _disk_errors_named(folder.parent), zipfile.ZipFile(archive) as members:
            _check_members(archive, members.infolist(), max_bytes)
            folder.parent.mkdir(parents=True, exist_ok=True)
            hall = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
            try:
                members.extractall(hall / folder.name)
                os.replace(hall / folder.name, folder)
            finally:
                shutil.rmtree(hall, ignore_errors=True)
    except DownloadError:
        raise
    except Exception as error:  # zipfile raises nearly anything on damaged archives
        cure = f"delete {archive.name} and {archive.name}.sha256, and fetch it anew"
        raise DownloadError(f"{archive}: damaged or cut short ({error}); {cure}") from error
    return folder


def _check_members(archive: Path, members: list[zipfile.ZipInfo], max_bytes: int) -> None:
    """Refuse an archive that could do harm; its contents are read no further than the sizes it declares."""
    total = sum(member.file_size for member in members)
    if total > max_bytes:
        raise DownloadError(
            f"{archive}: unpacks to {total} bytes, more than max_bytes {max_bytes}; raise it if you may"
        )
    for member in members:
        name = member.orig_filename  # as it stands in the archive, before any cleaning
        link = (member.external_attr >> 16) & 0o170000 == 0o120000
        if link or re.search(r"\\|\0|^/|^[A-Za-z]:", name) or ".." in PurePosixPath(name).parts:
            raise DownloadError(f"{archive}: member {name!r} is a link or lies outside; do not use this archive")
