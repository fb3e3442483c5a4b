"""Files that are whole or not there, downloads from a server that fails, hostile archives, and JSON."""

import json
import math
import os
import stat
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import full_disk

from maelib.data.augment import Augment
from maelib.files import download, from_json, read_json, unpack, write_atomic
from maelib.training.recipes import TrainConfig

BODY = np.random.default_rng(0).bytes(300_000)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_write_that_fails_leaves_the_previous_file_and_no_debris(tmp_path):
    write_atomic(tmp_path / "new" / "a.bin", b"whole")
    with full_disk(100), pytest.raises(OSError, match="too large"):
        write_atomic(tmp_path / "new" / "a.bin", BODY)
    assert (tmp_path / "new" / "a.bin").read_bytes() == b"whole"
    assert names(tmp_path / "new") == {"a.bin"}


@pytest.fixture
def url(server):
    server.files["/a.bin"] = BODY
    return f"{server.url}/a.bin"


def test_a_file_arrives_whole_and_is_downloaded_once(server, url, tmp_path):
    path = download(url, tmp_path / "new" / "a.bin")
    assert path.read_bytes() == BODY
    assert download(url, path) == path
    assert server.asked == [0]
    assert names(path.parent) == {"a.bin"}


def test_a_download_goes_on_where_the_connection_broke(server, url, tmp_path):
    server.faults = ["cut", 503, "cut"]
    for fault in ("ended after 100000 of 300000 bytes", "answers 503", "ended after 200000"):
        with pytest.raises(ConnectionError, match=rf"{url}: .*{fault}.*again"):
            download(url, tmp_path / "a.bin")
        assert names(tmp_path) == {"a.bin.partial"}
    assert download(url, tmp_path / "a.bin").read_bytes() == BODY
    assert server.sent == len(BODY)  # no byte twice


@pytest.mark.parametrize(("begun", "fault"), [(b"half", "ignores range"), (BODY, None), (BODY + b"and more", None)])
def test_a_download_that_cannot_go_on_starts_over(server, url, tmp_path, begun, fault):
    (tmp_path / "a.bin.partial").write_bytes(begun)
    server.faults = [fault]
    assert download(url, tmp_path / "a.bin").read_bytes() == BODY
    assert names(tmp_path) == {"a.bin"}


def test_a_full_disk_loses_nothing(server, url, tmp_path):
    with full_disk(150_000), pytest.raises(ConnectionError, match=r"partial \(.*too large.*disk.*start again"):
        download(url, tmp_path / "a.bin")
    assert download(url, tmp_path / "a.bin").read_bytes() == BODY
    assert server.asked == [0, 150_000]


def test_an_address_without_the_file_is_named(url, tmp_path):
    for address, fault in {f"{url}.gone": "404 .*address", "http://127.0.0.1:9/x": "network"}.items():
        with pytest.raises(ConnectionError, match=f"{address}: .*{fault}"):
            download(address, tmp_path / "a.bin")


def zip_of(path: Path, members: dict[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_an_archive_unpacks_to_what_went_in_and_nowhere_else(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    inside = {"x": b"1", "deep/y": BODY}
    escaping = {"../out": b"2", "/out": b"3", "a/../../out": b"4", link: b"/etc"}
    folder = unpack(zip_of(tmp_path / "a.zip", inside | escaping), tmp_path / "all")
    assert {name: (folder / name).read_bytes() for name in inside} == inside
    assert not (folder / "link").is_symlink()
    assert names(tmp_path) == {"a.zip", "all"}
    assert os.stat(folder).st_mode == os.stat(folder / "deep").st_mode


@pytest.mark.parametrize(("room", "there", "words"), [(200_000, set(), "too large"), (10_000_000, {"out"}, "out")])
def test_an_archive_that_cannot_be_unpacked_leaves_nothing(tmp_path, room, there, words):
    archive = zip_of(tmp_path / "a.zip", {"x": BODY})
    for name in there:
        (tmp_path / name).write_bytes(b"a file of the user")
    with full_disk(room), pytest.raises(ValueError, match=rf"a\.zip: .*{words}"):
        unpack(archive, tmp_path / "out")
    assert names(tmp_path) == {"a.zip"} | there


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_cut_or_altered_archive_gives_nothing_or_all(tmp_path_factory, data):
    tmp_path = tmp_path_factory.mktemp("zip")
    members = {"base/a.txt": b"one" * 50, "base/b.bin": BODY[:500]}
    whole = zip_of(tmp_path / "a.zip", members).read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    altered = b"" if data.draw(st.booleans()) else bytes([whole[at] ^ 0x41]) + whole[at + 1 :]
    (tmp_path / "a.zip").write_bytes(whole[:at] + altered)
    try:
        folder = unpack(tmp_path / "a.zip", tmp_path / "out")
    except ValueError:
        assert names(tmp_path) == {"a.zip"}
    else:  # the byte says nothing of the contents: it belongs to a date or a name
        assert {path.read_bytes() for path in folder.rglob("*") if path.is_file()} <= {*members.values()}


@given(
    st.builds(
        TrainConfig,
        init=st.none() | st.sampled_from([Path("a/b"), Path("c")]),
        augment=st.builds(Augment, flip=st.floats(0, 1), scale=st.tuples(st.floats(0.1, 0.5), st.floats(0.5, 1))),
        compile=st.booleans(),
        mask=st.sampled_from(["random", "grid"]),
        vgg_layers=st.lists(st.text()).map(tuple),
        lr=st.floats(1e-300, 1e300),
    )
)
def test_a_configuration_comes_back_from_json(config):
    assert from_json(TrainConfig, read_json(json.dumps(asdict(config), default=str)), "settings") == config


def test_missing_entries_take_their_defaults_and_whole_numbers_serve_as_floats():
    assert from_json(TrainConfig, {"augment": {"scale": [1, 1]}}, "settings") == TrainConfig()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"steps": True}, "steps is True, expected int"),
        ({"steps": -1}, "steps -1 is not positive"),
        ({"augment": {"hue": math.nan}}, "hue is nan, expected float"),
        ({"augment": {"hue": 10**400}}, "hue is 10*[.]{3}0*, expected float"),
        ({"data": 3}, "data is 3, expected Path"),
        ({"mask_ratio": [0, 1, 2]}, r"mask_ratio is \[0, 1, 2\], expected tuple\[float, float\]"),
        ({"vgg_layers": "ab"}, "vgg_layers is 'ab', expected tuple"),
        ({"mask": "c"}, "mask is 'c', expected Literal"),
        ({"colour": 2}, r"settings has the entries \['colour'\].*remove"),
        ([], r"settings is \[\], expected TrainConfig"),
    ],
)
def test_a_value_of_another_type_is_named(value, words):
    with pytest.raises(ValueError, match=words):
        from_json(TrainConfig, value, "settings")


@pytest.mark.parametrize("text", ["", "{", b"\xff", "[" * 100_000])
def test_what_is_not_json_is_refused(text):
    with pytest.raises(ValueError, match=r"not JSON \(.+\)"):
        read_json(text)
