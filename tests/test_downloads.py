"""Downloads from a server that fails in every way that servers fail, and archives that mean harm."""

import errno
import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maelib import downloads
from maelib.downloads import DownloadError, extract_zip, fetch

BODY = np.random.default_rng(0).bytes(300_000)
DIGEST = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(autouse=True)
def _files(server):
    server.files["/a.bin"] = BODY


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_arrives_whole_and_is_fetched_once(server, tmp_path):
    path = fetch(f"{server.url}/a.bin", tmp_path / "new" / "a.bin", DIGEST.upper())
    assert path.read_bytes() == BODY
    assert names(path.parent) == {"a.bin"}  # the known digest needs no note
    fetch(f"{server.url}/a.bin", path, DIGEST)
    assert server.asked == [0]


def test_a_cut_connection_goes_on_where_it_broke(server, tmp_path):
    server.faults = ["cut", "cut"]
    path = fetch(f"{server.url}/a.bin", tmp_path / "a.bin", wait=0)
    assert path.read_bytes() == BODY
    assert server.asked == [0, 100_000, 200_000]
    assert server.sent == len(BODY)  # no byte twice


def test_a_later_call_goes_on_too_and_says_so(server, tmp_path):
    server.faults = ["cut", 503, 503]
    with pytest.raises(DownloadError, match=r"gave up after 2 tries .*503.* after the 100000 bytes that are here"):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin", tries=2, wait=0)
    assert names(tmp_path) == {"a.bin.partial"}
    assert fetch(f"{server.url}/a.bin", tmp_path / "a.bin").read_bytes() == BODY
    assert server.sent == len(BODY)


@pytest.mark.parametrize("fault", ["ignores range", "changed"])
def test_a_server_that_cannot_continue_starts_over(server, tmp_path, fault):
    (tmp_path / "a.bin.partial").write_bytes(b"the beginning of an older file")
    server.faults = [fault]
    assert fetch(f"{server.url}/a.bin", tmp_path / "a.bin", wait=0).read_bytes() == BODY
    assert names(tmp_path) == {"a.bin", "a.bin.sha256"}


def test_what_was_whole_before_a_crash_is_not_fetched_again(server, tmp_path):
    (tmp_path / "a.bin.partial").write_bytes(BODY)
    assert fetch(f"{server.url}/a.bin", tmp_path / "a.bin", wait=0).read_bytes() == BODY
    assert server.sent == 0
    (tmp_path / "b.bin.partial").write_bytes(BODY + b"and more")  # no beginning of that file
    assert fetch(f"{server.url}/a.bin", tmp_path / "b.bin", wait=0).read_bytes() == BODY


def test_a_wrong_digest_leaves_nothing_behind(server, tmp_path):
    with pytest.raises(DownloadError, match=f"sha256 is {DIGEST}, and should be 0000.*has changed, or was altered"):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin", "0" * 64)
    assert names(tmp_path) == set()


def test_the_first_digest_is_noted_and_every_later_use_is_held_to_it(server, tmp_path):
    path = fetch(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin.sha256").read_text().split() == [DIGEST, "a.bin"]  # as sha256sum --check reads it
    assert fetch(f"{server.url}/a.bin", path) == path
    path.write_bytes(BODY[:-1])
    with pytest.raises(DownloadError, match=r"delete a\.bin and a\.bin\.sha256 to fetch it anew"):
        fetch(f"{server.url}/a.bin", path)
    path.unlink()
    server.files["/a.bin"] = BODY[::-1]  # another file under the old address
    with pytest.raises(DownloadError, match="has changed"):
        fetch(f"{server.url}/a.bin", path)
    assert not path.exists()


def test_a_missing_file_is_named_at_once(server, tmp_path):
    with pytest.raises(DownloadError, match=r"gone\.zip: the server answers 404 .*check the address"):
        fetch(f"{server.url}/gone.zip", tmp_path / "gone.zip")
    assert len(server.asked) == 1
    with pytest.raises(DownloadError, match="is no address on the web"):
        fetch((tmp_path / "a").as_uri(), tmp_path / "b")


def test_a_full_disk_loses_nothing_and_makes_nothing(server, tmp_path, monkeypatch):
    real, room = Path.open, 150_000

    class Full(io.FileIO):
        def write(self, data):
            if self.tell() + len(data) > room:
                super().write(data[: room - self.tell()])
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    with monkeypatch.context() as patch:
        patch.setattr(
            Path, "open", lambda self, mode="r", *a, **k: (Full if "b" in mode else real)(self, mode, *a, **k)
        )
        patch.setattr(downloads, "CHUNK", 40_000)
        with pytest.raises(DownloadError, match=r"cannot be written \(No space left on device\); make room and start"):
            fetch(f"{server.url}/a.bin", tmp_path / "a.bin", wait=0)
    assert names(tmp_path) == {"a.bin.partial"}
    assert fetch(f"{server.url}/a.bin", tmp_path / "a.bin").read_bytes() == BODY
    assert server.asked == [0, room]


def zip_of(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_an_archive_unpacks_to_what_went_in(tmp_path):
    archive = zip_of(tmp_path / "a.zip", **{"base/x": b"1", "base/deep/y": BODY})
    folder = extract_zip(archive, tmp_path / "out" / "all")
    assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} == {"base/x", "base/deep/y"}
    assert (folder / "base/deep/y").read_bytes() == BODY
    assert names(tmp_path / "out") == {"all"}
    with pytest.raises(FileExistsError, match=r"exists already; delete it to unpack a\.zip anew"):
        extract_zip(archive, folder)


@pytest.mark.parametrize("name", ["../out.txt", "a/../../out.txt", "/out.txt", "C:/out.txt", "c:out", "a\\..\\..\\out"])
def test_a_member_that_would_escape_is_refused_before_anything_is_written(tmp_path, name):
    archive = zip_of(tmp_path / "a.zip", **{"good.txt": b"1", name: b"2"})
    with pytest.raises(DownloadError, match="lies outside; do not use this archive"):
        extract_zip(archive, tmp_path / "out")
    assert names(tmp_path) == {"a.zip"}


def test_a_link_is_refused(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc")
    with pytest.raises(DownloadError, match="'link' is a link"):
        extract_zip(tmp_path / "a.zip", tmp_path / "out")


def test_a_bomb_is_refused_unread(tmp_path):
    archive = zip_of(tmp_path / "a.zip", zeros=bytes(2_000_000))
    assert archive.stat().st_size < 10_000
    with pytest.raises(DownloadError, match="unpacks to 2000000 bytes, more than max_bytes 1000000"):
        extract_zip(archive, tmp_path / "out", max_bytes=1_000_000)
    assert names(tmp_path) == {"a.zip"}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_cut_or_altered_archive_gives_nothing_or_all(tmp_path_factory, data):
    """Whatever byte is missing or wrong, what is unpacked is what went in, or the archive is refused."""
    tmp_path = tmp_path_factory.mktemp("zip")
    members = {"base/a.txt": b"one" * 50, "base/b.bin": BODY[:500]}
    whole = zip_of(tmp_path / "a.zip", **members).read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    bad = whole[:at] if data.draw(st.booleans()) else whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :]
    (tmp_path / "a.zip").write_bytes(bad)
    try:
        folder = extract_zip(tmp_path / "a.zip", tmp_path / "out")
    except DownloadError:
        assert names(tmp_path) == {"a.zip"}
    else:  # a byte that says nothing of the contents: a date, a name
        unpacked = [p.read_bytes() for p in folder.rglob("*") if p.is_file()]
        assert all(content in members.values() for content in unpacked)


def test_a_disk_that_fills_while_unpacking_leaves_no_half(tmp_path, monkeypatch):
    def full(self, path):
        (Path(path) / "base").mkdir(parents=True)
        (Path(path) / "base" / "x").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    archive = zip_of(tmp_path / "a.zip", x=BODY)
    monkeypatch.setattr(zipfile.ZipFile, "extractall", full)
    with pytest.raises(DownloadError, match="make room and start again"):
        extract_zip(archive, tmp_path / "out")
    assert names(tmp_path) == {"a.zip"}
