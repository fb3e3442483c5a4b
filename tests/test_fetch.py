"""`maelib fetch`: a name becomes a file, checked as far as its authors let it be."""

import hashlib

import pytest

from maelib import fetch
from maelib.cli import main
from maelib.downloads import DownloadError
from maelib.fetch import FETCHES, FetchConfig
from maelib.weights.reading import OFFICIAL, Official


def test_everything_that_can_be_fetched_says_what_it_is(capsys):
    assert {"cmp", *OFFICIAL} <= set(FETCHES)
    with pytest.raises(SystemExit) as stop:
        main(["fetch", "imagenet"])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "'imagenet' is nothing that can be fetched" in said
    assert all(f"{name}: " in said for name in FETCHES)


def test_official_weights_arrive_under_their_name_with_their_licence(server, tmp_path, monkeypatch):
    server.files["/mae/x.pth"] = b"weights"
    told = Official(f"{server.url}/mae/x.pth", "vit_base", False, hashlib.md5(b"weights").hexdigest()[:6])
    monkeypatch.setitem(OFFICIAL, "mae_visualize_vit_base", told)
    said = fetch.fetch(FetchConfig("mae_visualize_vit_base", tmp_path))
    assert (tmp_path / "mae_visualize_vit_base.pth").read_bytes() == b"weights"
    assert "--recipe vit_base --init" in said
    assert "CC-BY-NC" in said


def test_weights_of_another_checksum_than_their_authors_state_are_refused(server, tmp_path, monkeypatch):
    server.files["/x.pth"] = b"altered"
    monkeypatch.setitem(OFFICIAL, "mae_pretrain_vit_base", Official(f"{server.url}/x.pth", "vit_base", None, "8cad7c"))
    with pytest.raises(DownloadError, match=r"its md5 is .*, and its authors state 8cad7c\.\.\.; delete it"):
        fetch.fetch(FetchConfig("mae_pretrain_vit_base", tmp_path))
