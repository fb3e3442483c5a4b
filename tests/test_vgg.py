"""VGG19 against torchvision's, the folded input against the unfolded one, and where weights come from."""

import hashlib
import io
import tarfile

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torchvision.models import VGG19_Weights
from torchvision.models.vgg import cfgs, make_layers

from maelib import perceptual as vgg
from maelib import perceptual_weights as vgg_weights
from maelib.data.images import TEST_SEEDS
from maelib.downloads import DownloadError
from maelib.facades import draw_images
from maelib.patches import PIXEL_MEAN, PIXEL_STD
from maelib.perceptual import VGG19, vgg19
from maelib.perceptual_weights import CONVS, NORMALISED_POSITIONS, POSITIONS, fetch_vgg19, fold_input, weights_file

WIDTHS = (6, 5, 7, 4) + (3,) * 12  # of a small network with VGG19's layout


@pytest.fixture(scope="module")
def images():
    return torch.from_numpy(draw_images(TEST_SEEDS[:4], 64)).permute(0, 3, 1, 2) / 255


@pytest.fixture(scope="module")
def normalised_state():
    """A small network as the normalised file holds one: 1 x 1 from RGB to BGR, then 16 convolutions."""
    generator = torch.Generator().manual_seed(0)

    def rand(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    state = {"0.weight": 255 * torch.eye(3, dtype=torch.float64).flip(0)[..., None, None], "0.bias": -100 + rand(3)}
    for position, inside, width in zip(NORMALISED_POSITIONS, (3, *WIDTHS), WIDTHS, strict=False):
        state |= {f"{position}.weight": rand(width, inside, 3, 3), f"{position}.bias": rand(width)}
    return state


def pack(state, path):
    """The state in an archive like the package's; returns the file's digest."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo(vgg_weights.MEMBER)
        member.size = buffer.tell()
        archive.addfile(member, io.BytesIO(buffer.getvalue()))
    return hashlib.sha256(buffer.getvalue()).hexdigest()


# -------------------------------------------------------------------------------------------------- the network


def test_maps_are_those_of_torchvisions_network(images, tmp_path):
    torch.manual_seed(0)
    official = make_layers(cfgs["E"])
    torch.save({f"features.{name}": tensor for name, tensor in official.state_dict().items()}, tmp_path / "vgg19.pth")
    mean, std = (torch.tensor(x)[:, None, None] for x in (PIXEL_MEAN, PIXEL_STD))
    x, expected = (images[:2] - mean) / std, {}
    names = [f"relu{conv}" for conv in CONVS]
    for module in official:
        if isinstance(module, torch.nn.Conv2d):
            module.padding_mode = "reflect"
        x = module(x)
        if isinstance(module, torch.nn.ReLU):
            expected[names[len(expected)]] = x
    layers = ("relu4_1", "relu1_2", "relu3_1")  # in any order
    for layer, ours in zip(layers, vgg19(str(tmp_path / "vgg19.pth"), layers)(images[:2]), strict=True):
        torch.testing.assert_close(ours, expected[layer], msg=layer)


def test_the_folded_input_changes_nothing_with_reflection_and_would_with_zeros(normalised_state):
    x = torch.rand(2, 3, 12, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mean, std = (torch.tensor(x, dtype=torch.float64)[:, None, None] for x in (PIXEL_MEAN, PIXEL_STD))
    folded = fold_input(normalised_state, 2)
    assert len(folded) == 4
    relative = {}
    for mode in ("reflect", "constant"):

        def convolve(x, weight, bias, mode=mode):
            return F.conv2d(F.pad(x, (1, 1, 1, 1), mode=mode), weight, bias).relu()

        ours, theirs = (x - mean) / std, F.conv2d(x, normalised_state["0.weight"], normalised_state["0.bias"])
        for position, old in zip(POSITIONS[:2], NORMALISED_POSITIONS, strict=False):
            ours = convolve(ours, folded[f"features.{position}.weight"], folded[f"features.{position}.bias"])
            theirs = convolve(theirs, normalised_state[f"{old}.weight"], normalised_state[f"{old}.bias"])
        relative[mode] = ((ours - theirs).norm() / theirs.norm()).item()
    assert relative["reflect"] < 1e-12
    assert relative["constant"] > 0.01


def test_only_what_is_used_is_built_and_runs_once_for_all_layers(images):
    model = vgg19("random")
    assert sum(p.numel() for p in model.parameters()) == 555_328  # of 20 million
    assert [tuple(x.shape[1:]) for x in model(images)] == [(64, 64, 64), (128, 32, 32), (256, 16, 16)]
    calls = []
    for module in model.features:
        module.register_forward_hook(lambda *args: calls.append(1))
    model(images)
    assert len(calls) == len(model.features) == 12  # 5 convolutions, 5 ReLUs, 2 poolings
    assert len(VGG19(("relu1_1",)).features) == 2


def test_how_far_a_map_sees(images):
    """A pixel changes only places nearer than `margin`, and changes the one just inside it."""
    for layers in (("relu1_1",), ("relu2_1",), ("relu3_1",)):
        model = vgg19("random", layers, torch.float64)
        x = images[:1].double()
        dot = x.clone()
        dot[..., 32, 32] += 1
        changed = (model(dot)[0] != model(x)[0]).any(dim=1)[0].any(dim=1).nonzero()[:, 0]
        step = model.stride
        assert changed.min() * step + step - 1 + model.margin >= 32
        assert changed.max() * step - model.margin <= 32
        assert changed.min() * step + step - 1 + model.margin - step < 32  # no rounder than a stride
    assert (model.stride, model.margin) == (4, 12)


def test_gradients_reach_images_and_never_weights(images):
    model, x = vgg19("random"), images.clone().requires_grad_()
    sum(map(torch.mean, model(x))).backward()
    assert x.grad.abs().sum() > 0
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())
    assert not model.training


def test_bf16_is_close_and_finite(images):
    exact, short = (vgg19("random", dtype=dtype)(images) for dtype in (torch.float64, torch.bfloat16))
    for a, b in zip(exact, short, strict=True):
        assert ((a - b).norm() / a.norm()).item() < 0.02  # a bf16 number is right to 0.4%
    wild = torch.cat([images, images * 1e4 - 5e3, torch.zeros_like(images)])
    assert all(x.isfinite().all() for x in vgg19("random", dtype=torch.bfloat16)(wild))


def test_random_weights_follow_their_seed_alone_and_say_that_they_are_random(images):
    state = torch.get_rng_state()
    first, again, other = vgg19("random"), vgg19("random"), vgg19("random", seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first(images)[2], again(images)[2])
    assert not torch.equal(first(images)[2], other(images)[2])
    assert "random" in first.note


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda tmp: VGG19(("relu2_3",)), ValueError, "layer 'relu2_3' is not in VGG19; use some of relu1_1, "),
        (lambda tmp: VGG19(()), ValueError, "layers is empty"),
        (lambda tmp: vgg19("random")(torch.rand(1, 3, 64, 7)), ValueError, r"\(1, 3, 64, 7\).*sides of 8 px or more"),
        (lambda tmp: vgg19("imagnet"), FileNotFoundError, "'imagnet' are neither a file nor one of 'normalised'"),
        (lambda tmp: vgg19(str(tmp / "bad.pth")), ValueError, r"bad\.pth does not hold VGG19 up to conv3_1"),
        (lambda tmp: vgg19(str(tmp / "bad.safetensors")), ValueError, r"bad\.safetensors does not hold VGG19"),
        (lambda tmp: fetch_vgg19("random"), ValueError, "'random' cannot be fetched; use 'normalised' or 'imagenet'"),
    ],
)
def test_mistakes_are_named_with_their_cure(call, error, message, tmp_path):
    for name in ("bad.pth", "bad.safetensors"):
        (tmp_path / name).write_bytes(b"no weights")
    with pytest.raises(error, match=message):
        call(tmp_path)


# ------------------------------------------------------------------------------------------ where weights come from


def test_trained_channels_answer_facades_with_activations_of_about_1(images, normalised_weights):
    """What 'normalised' means, on pictures that are none of ImageNet's; the median channel of each layer."""
    for maps in vgg19(str(normalised_weights))(images):
        assert 0.5 < maps.mean(dim=(0, 2, 3)).median() < 2


def test_a_fetch_keeps_what_is_needed_and_is_done_once(normalised_state, tmp_path, monkeypatch):
    monkeypatch.setenv("MAELIB_CACHE", str(tmp_path / "cache"))
    source = tmp_path / "copy.tar.gz"
    monkeypatch.setattr(vgg_weights, "MEMBER_SHA256", pack(normalised_state, source))
    path = fetch_vgg19(source=str(source))
    held, folded = load_file(path), fold_input(normalised_state)
    assert held.keys() == {f"features.{i}.{part}" for i in POSITIONS[:5] for part in ("weight", "bias")}
    assert all(torch.equal(held[name], folded[name]) for name in held)
    assert list(path.parent.iterdir()) == [path]  # and nothing else of the download
    assert weights_file("normalised", 6) is None
    full = fetch_vgg19(all_layers=True, source=str(source))
    assert load_file(full).keys() == folded.keys()
    source.unlink()
    assert fetch_vgg19(source=str(source)) == path
    path.unlink()
    assert fetch_vgg19() == full  # it holds the first five too


def test_an_altered_archive_leaves_nothing(normalised_state, tmp_path, monkeypatch):
    monkeypatch.setenv("MAELIB_CACHE", str(tmp_path / "cache"))
    pack(normalised_state, tmp_path / "altered.tar.gz")
    with pytest.raises(DownloadError, match="and should be 804ca283"):
        fetch_vgg19(source=str(tmp_path / "altered.tar.gz"))
    assert not list((tmp_path / "cache").iterdir())


def test_the_official_weights_come_from_torchvision_by_their_name(tmp_path, monkeypatch):
    asked = []

    def load(url, **options):
        asked.append((url, options["check_hash"], options["weights_only"]))
        if len(asked) > 1:
            raise RuntimeError("invalid hash value")
        return {f"features.{i}.{part}": torch.full((2,), float(i)) for i in POSITIONS for part in ("weight", "bias")}

    monkeypatch.setenv("MAELIB_CACHE", str(tmp_path))
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", load)
    assert load_file(fetch_vgg19("imagenet"))["features.10.bias"].tolist() == [10, 10]
    assert asked == [(VGG19_Weights.IMAGENET1K_V1.url, True, True)]
    with pytest.raises(DownloadError, match="invalid hash value"):
        fetch_vgg19("imagenet", all_layers=True)
    with pytest.raises(ValueError, match="of no use for 'imagenet'"):
        fetch_vgg19("imagenet", all_layers=True, source="copy")


def test_weights_out_of_reach_name_the_ways_out_and_nothing_stands_in_for_them(out_of_reach):
    with pytest.raises(
        DownloadError, match=r"'normalised' are not here .*no network in this test\. Ways out: "
    ) as stop:
        vgg.vgg19()
    for way in ("maelib fetch vgg19", "'imagenet'", "path", "'random'", "--perceptual-weight 0"):
        assert way in str(stop.value)
