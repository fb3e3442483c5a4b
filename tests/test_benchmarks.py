"""Each row of the quality table can run, asks for the folders it needs, and keeps real photos out of its figure."""

import json
import re
from dataclasses import replace
from importlib.util import find_spec

import common
import gpu
import loader
import numpy as np
import peers
import perceptual
import pytest
import quality
import sharpness
import speed
import time_to_quality
import torch
import tyro
from failures import FailuresConfig
from failures import main as show_failures
from properties import PROPERTIES, measure
from quality import ROWS, QualityConfig, Row
from transfer import BenchmarkConfig, verdict
from transfer import main as compare_starts

from maelib.masking import block_mask, mask_to_pixels
from maelib.model import CONFIGS, MAEConfig, MaskedAutoencoder
from maelib.patches import PIXEL_STD, patchify
from maelib.repair.classical import BASELINES
from maelib.repair.evaluate import drawn_test_images
from maelib.transfer.compare import ProbeConfig, Result
from maelib.weights.checkpoint import save_model

FAST = {name: BASELINES[name] for name in ("mean_fill", "translation_copy", "mean_of_copies", "telea")}


@pytest.fixture
def folders(tmp_path):
    """Two folders of different pictures, 12 and 4, that stand for photos."""
    pictures = (drawn_test_images(32, count=16).permute(0, 2, 3, 1) * 255).byte().numpy()
    for name, part in (("train", pictures[:12]), ("photos", pictures[12:])):
        (tmp_path / name).mkdir()
        for i, picture in enumerate(part):
            np.save(tmp_path / name / f"{i}.npy", picture)
    return {"train": tmp_path / "train", "photos": tmp_path / "photos"}


@pytest.mark.parametrize("name", ROWS)
def test_every_row_runs_from_its_command_line(name, folders):
    row = ROWS[name]
    wanted = [folder for folder in ("train", "photos") if getattr(row, folder)]
    args = [name] + [word for folder in wanted for word in (f"--{folder}", str(folders[folder]))]
    config = tyro.cli(QualityConfig, args=args)
    assert config.trains == (row.config is not None)
    assert not row.train or row.config.drawn, "a mixed row draws facades too"
    for missing in wanted:
        with pytest.raises(ValueError, match=f"row {name} .* add --{missing} FOLDER"):
            QualityConfig(name, **{folder: folders[folder] for folder in wanted if folder != missing})


def test_mistakes_in_folders_are_named_before_anything_is_trained(folders, tmp_path):
    with pytest.raises(ValueError, match=r"--train and --photos are both .* another folder"):
        QualityConfig("mixed64", train=folders["train"], photos=folders["train"])
    with pytest.raises(FileNotFoundError, match=r"--photos .*nowhere is no folder"):
        QualityConfig("drawn", photos=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="--steps 3 changes nothing about row drawn"):
        QualityConfig("drawn", steps=3)
    other = QualityConfig("tiny", checkpoint=quality.bundled_checkpoint(), out=tmp_path)
    with pytest.raises(ValueError, match="not of the shape that row tiny trains"):
        quality.main(other)


def test_the_drawn_row_scores_the_bundled_model(tmp_path, monkeypatch):
    monkeypatch.setattr(quality, "BASELINES", FAST)
    quality.main(QualityConfig("drawn", count=4, out=tmp_path))
    report = (tmp_path / "drawn.md").read_text()
    assert "facade_small.safetensors" in report
    assert "4 of 96 px" in report
    assert "model above the best" in report
    assert 0 < (tmp_path / "drawn.png").stat().st_size < 300_000


def test_a_mixed_row_trains_after_another_reports_and_keeps_photos_out_of_its_figure(tmp_path, folders, monkeypatch):
    shape = MAEConfig(img_size=32, embed_dim=16, depth=1, num_heads=2, decoder_embed_dim=16, decoder_depth=1,
                      decoder_num_heads=2)  # fmt: skip
    config = replace(ROWS["mixed64"].config, model=shape, steps=9, drawn=4, val_share=0.25, batch_size=4)
    monkeypatch.setitem(ROWS, "mixed64", Row("small", config, train=True, photos=True, after="first"))
    monkeypatch.setitem(
        ROWS, "first", Row("smaller", replace(config, model=replace(shape, img_size=64, patch_size=16)))
    )
    monkeypatch.setattr(quality, "BASELINES", FAST)
    drawn_in_figures = []

    def figure(methods, scores, images, patch_size):
        drawn_in_figures.append(images)
        return real_figure(methods, scores, images, patch_size)

    real_figure = quality.evaluation_figure
    monkeypatch.setattr(quality, "evaluation_figure", figure)
    out, keep = tmp_path / "out", tmp_path / "keep"
    quality.main(QualityConfig("mixed64", **folders, steps=2, keep=keep, count=6, out=out))
    report = (out / "mixed64.md").read_text()
    assert report.count("Trained 2 steps of 4 = 8 images") == 2
    assert json.loads((keep / "config.json").read_text())["init"] == str(keep / "first" / "model.safetensors")
    assert "Learnt from 12 photos, 25% kept for validation" in report
    assert "## Real photos: 4 of 32 px" in report
    assert str(tmp_path) not in report, "a report names no path of the machine"
    assert (out / "mixed64.csv").read_text() == (keep / "log.csv").read_text()
    assert len(drawn_in_figures) == 1
    assert torch.equal(drawn_in_figures[0], drawn_test_images(32, count=6))


def test_properties_of_a_hand_made_picture():
    image = torch.zeros(3, 32, 32)
    image[:, :, 0::16] = 1.0  # stripes that repeat every 16 px, nothing from top to bottom
    hole = torch.zeros(32, 32, dtype=torch.bool)
    hole[8:16, 8:16] = True  # between two stripes
    found = dict(zip(PROPERTIES, measure(image, hole, 8), strict=True))
    assert found["repetition error"] == pytest.approx(0, abs=1e-6)
    assert found["reach of the copy"] == 1
    assert found["truth's gradient"] == 0
    share = (2 * 32) / (32 * 32 - 64)
    assert found["colour step"] == pytest.approx(255 * share)
    assert found["contrast"] == pytest.approx(255 * (share * (1 - share)) ** 0.5, rel=1e-3)  # n - 1 against n
    assert found["depth"] == pytest.approx((28 * 1 + 20 * 2 + 12 * 3 + 4 * 4) / 64)  # ring by ring


def test_failures_are_reported_and_drawn(tmp_path, folders, monkeypatch):
    monkeypatch.setattr("failures.FEWEST", 0)
    show_failures(FailuresConfig(photos=folders["photos"], count=12, out=tmp_path))
    report = (tmp_path / "failures.md").read_text()
    assert "## Drawn facades, held out: 12 images" in report
    assert "## Real photos: 4 images" in report
    assert all(f"| {name}: " in report for name in PROPERTIES)
    assert "nan" not in report


def test_the_cost_of_the_perceptual_loss_is_reported_and_its_kinds_agree(tmp_path, monkeypatch):
    losses = perceptual.kinds("random")
    size = CONFIGS["facade_base"].img_size
    images, prediction = drawn_test_images(size, count=1), torch.rand(1, 196, 768)
    mask = block_mask(1, (14, 14), 0.1, torch.Generator().manual_seed(0))
    values = [loss(prediction, images, mask)["loss"].item() for loss in losses.values()]
    assert values[1:4] == pytest.approx([values[1]] * 3, rel=1e-4)
    assert values[4] == pytest.approx(values[1], rel=0.02)  # a bf16 number is right to 0.4%
    seconds = {name: [9.0, i + 1.0, 0.0] for i, name in enumerate(losses)}
    monkeypatch.setattr(perceptual, "measure", lambda config: seconds)
    perceptual.main(perceptual.PerceptualConfig(out=tmp_path))
    report = (tmp_path / "perceptual.md").read_text()
    assert all(f"| {name} | {i + 1}.00 | {i + 1}.00 | {i}.00 |" in report for i, name in enumerate(losses))


def test_the_sharpness_report_has_a_row_for_every_loss_on_every_set(tmp_path, folders, monkeypatch):
    losses = ("squared error alone", "1 + 0.008, windows of 4")
    config = sharpness.SharpnessConfig(**folders, losses=losses, steps=1, size=32, count=3, vgg="random", out=tmp_path)
    seen = sharpness.recipe(config, losses[1], tmp_path)
    assert (seen.mse_weight, seen.perceptual_weight, seen.vgg_window) == (1, 0.008, 4)
    few = replace(seen, drawn=8)  # a pool that is drawn in no time
    monkeypatch.setattr(sharpness, "recipe", lambda config, loss, out: replace(few, out=out))
    sharpness.main(config)
    report = (tmp_path / "sharpness.md").read_text()
    assert (tmp_path / "sharpness.png").stat().st_size > 1000
    for loss in losses:
        rows = re.findall(rf"^\| {re.escape(loss)} \| (.*) \|$", report, re.MULTILINE)
        assert len(rows) == 2, "drawn facades and photos"
        numbers = [[float(x) for x in cell.split(" / ")] for cell in rows[0].split(" | ")]
        assert [len(cell) for cell in numbers] == [5, 5, 5, 1]
        assert all(np.isfinite(cell).all() for cell in numbers)


def test_feature_distances_are_means_over_images():
    generator = torch.Generator().manual_seed(0)
    repaired, images = torch.rand(2, 40, 3, 32, 32, generator=generator)
    hole = torch.zeros(40, 32, 32, dtype=torch.bool)
    hole[:, 8:24, 8:16] = True
    judge = sharpness.vgg19("random", ("relu1_1", "relu2_1"))
    pairs = zip(judge(repaired), judge(images), strict=True)
    expected = [((a - b).square().mean(dim=1)[:, 8 // s : 24 // s, 8 // s : 16 // s]).mean().item() for (a, b), s in
                zip(pairs, (1, 2), strict=True)]  # fmt: skip
    assert sharpness.feature_distances(repaired, images, hole, judge) == pytest.approx(expected, rel=1e-4)


def test_the_transfer_report_compares_every_row_and_says_when_nothing_was_gained(tmp_path):
    config = MAEConfig(img_size=32, embed_dim=16, depth=1, num_heads=1, decoder_embed_dim=16, decoder_depth=1,
                       decoder_num_heads=1)  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_model(tmp_path / "small.safetensors", MaskedAutoencoder(config), {})
    compare_starts(BenchmarkConfig(tmp_path / "small.safetensors", seeds=2, test=12, out=tmp_path))
    report = (tmp_path / "transfer.md").read_text()
    assert report.count("| probe, ") == report.count("| fine-tuning, ") == 2
    assert report.count("\n- probe, ") == report.count("\n- fine-tuning, ") == 2
    scores = {"scratch": torch.tensor([0.1, 0.3]), "pretrained": torch.tensor([0.3, 0.3])}
    unclear = Result(ProbeConfig("style", seeds=2), scores, [])
    assert verdict(unclear) == "pre-training does not clearly help: +10.0 points, 1.0 standard errors"
    nothing = unclear._replace(scores={"scratch": torch.tensor([0.2, 0.2]), "pretrained": torch.tensor([0.2, 0.2])})
    assert verdict(nothing) == "pre-training does not clearly help: +0.0 points, the same every time"
    clear = unclear._replace(scores=scores | {"pretrained": torch.tensor([0.5, 0.8])})
    assert verdict(clear) == "pre-training helps: +45.0 points, 9.0 standard errors"


# ----------------------------------------------------------------------------------------------- beside other libraries

SHAPE = MAEConfig(img_size=32, embed_dim=16, depth=1, num_heads=2, decoder_embed_dim=16, decoder_depth=1,
                  decoder_num_heads=2)  # fmt: skip
INSTALLED = [name for name in peers.PEERS if find_spec(peers.PACKAGES.get(name, "torch").replace("-", "_"))]


@pytest.mark.parametrize("name", peers.PEERS)
def test_a_peer_predicts_hidden_patches_from_visible_ones_and_its_loss_is_theirs(name):
    if name not in INSTALLED:
        pytest.skip(f"{peers.PACKAGES[name]} is not installed; pip install -e '.[bench]'")
    torch.manual_seed(0)
    peer, images = peers.PEERS[name](SHAPE), torch.rand(3, 3, 32, 32)
    for ratio in (0.25, 0.75):
        mask = block_mask(3, SHAPE.grid_size, ratio, torch.Generator().manual_seed(1))
        hole = mask_to_pixels(mask, 8, SHAPE.grid_size)[:, None]
        with torch.no_grad():
            prediction, loss = peer(images, mask), peer.loss(images, mask)
            other = peer(torch.where(hole, 0.3, images), mask)
        unit = 1 if name == "maelib" else torch.tensor(PIXEL_STD).repeat(64)  # the peers' losses are in deviations
        error = ((prediction - patchify(images, 8)) / unit).square().mean(dim=-1)
        assert loss.item() == pytest.approx((error * mask).sum().item() / mask.sum().item(), rel=1e-4)
        torch.testing.assert_close(other, prediction)
        assert not torch.allclose(peer(images.flip(3), mask), prediction)


def test_peers_are_of_one_size():
    sizes = {
        name: sum(p.numel() for p in peers.PEERS[name](SHAPE).parameters() if p.requires_grad) for name in INSTALLED
    }
    assert max(sizes.values()) < 1.05 * min(sizes.values())


def test_the_step_as_it_began_learns_and_hides_what_the_original_hid():
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 (as the original draws)
    shape, images = MAEConfig(img_size=64, embed_dim=16, depth=1, num_heads=2, decoder_embed_dim=16, decoder_depth=1,
                              decoder_num_heads=2), torch.rand(2, 3, 64, 64)  # fmt: skip
    plain = peers.PlainStep(shape, 0.5)
    mask = plain.square_mask(4).unflatten(1, (8, 8))
    assert mask.sum(dim=(1, 2)).tolist() == [25] * 4  # int(sqrt(32)) a side
    assert mask.any(dim=1).sum(dim=1).tolist() == [5] * 4
    step, losses = speed.Step(plain, torch.float32, images), []
    for group in step.optimizer.param_groups:
        group["lr"] = 1e-2
    for _ in range(30):
        losses.append(plain.loss(images).item())
        step(mask.flatten(1)[:2])
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])


def test_speed_reports_every_kind(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "matmul_peak", lambda dtype: 1e12)  # some seconds
    config = speed.SpeedConfig(
        batch_size=2, rounds=1, ratios=(0.5,), peers=("maelib", "Hugging Face"), vgg="random", shape=SHAPE, out=tmp_path
    )
    monkeypatch.setattr(speed, "peak_memory", lambda *args: 1.0)  # a process each; the next test has one
    monkeypatch.setattr(speed, "versions", lambda: "versions")
    speed.main(config)
    report = (tmp_path / "speed.md").read_text()
    for name in ("| float32, 0.5 hidden | maelib |", "| bf16, 0.5 hidden | Hugging Face |", *speed.WHOLE_STEPS):
        assert name in report


def test_peak_memory_is_that_of_a_process_of_its_own(tmp_path):
    ballast = np.ones(1_500_000_000, np.uint8)  # of the process that starts them, and not counted
    config = speed.SpeedConfig(shape=replace(SHAPE, embed_dim=512, depth=8), out=tmp_path)
    small, large = (speed.peak_memory("maelib", replace(config, batch_size=n), 0.25, "float32") for n in (2, 64))
    kept = 8 * 64 * 12 * 512 * 4  # bytes of one float32 map a block
    assert 2e8 < small < len(ballast)  # Python and torch
    assert 10 * kept < large - small < 60 * kept


def test_time_to_quality_reports_every_model_at_every_time(tmp_path, monkeypatch):
    monkeypatch.setattr(time_to_quality, "versions", lambda: "versions")
    config = time_to_quality.TimeConfig(
        minutes=(0.02, 0.05), peers=("maelib, its recipe", "maelib", "Hugging Face"), shape=SHAPE, drawn=40, count=8,
        out=tmp_path,
    )  # fmt: skip
    time_to_quality.main(config)
    report = (tmp_path / "time_to_quality.md").read_text()
    rows = [line.split("|")[1:-1] for line in report.splitlines() if " min |" in line]
    assert [(row[0].strip(), row[1].strip()) for row in rows] == [
        (when, name) for when in ("0.02 min", "0.05 min") for name in config.peers
    ]
    assert all(int(late[2]) > int(early[2]) > 0 for early, late in zip(rows[:3], rows[3:], strict=True))
    assert all(5 < float(psnr) < 40 for row in rows for psnr in row[3:])
    assert (tmp_path / "time_to_quality.png").stat().st_size < 100_000


def test_a_learner_goes_on_from_a_copy_without_touching_the_original():
    learner = time_to_quality.Learner("maelib, its recipe", time_to_quality.TimeConfig(shape=SHAPE, drawn=40))
    learner.learn(0.05, lambda spent: 1.0)
    before, twin = {k: v.clone() for k, v in learner.model.state_dict().items()}, learner.copy()
    twin.learn(learner.spent + 0.05, lambda spent: 0.5)
    assert twin.step > learner.step > 0
    assert all(torch.equal(v, before[k]) for k, v in learner.model.state_dict().items())
    assert not torch.equal(twin.model.decoder_pred.weight, before["decoder_pred.weight"])


def test_loader_reports_folder_and_pool(tmp_path, monkeypatch):
    monkeypatch.setattr(loader, "LARGE", 40)
    monkeypatch.setattr("maelib.data.sources.LARGE", 40)
    recipe = replace(loader.RECIPES["facade_tiny"], model=SHAPE, batch_size=4, val_images=4)
    monkeypatch.setattr(loader, "RECIPES", {"facade_tiny": recipe})
    loader.main(loader.LoaderConfig(files=60, steps=5, recipes=("facade_tiny",), out=tmp_path))
    rows = [line for line in (tmp_path / "loader.md").read_text().splitlines() if line.startswith("| facade_tiny")]
    assert [("60 .npy" in row, "pool" in row) for row in rows] == [(True, False), (True, False), (False, True)]
    with pytest.raises(ValueError, match="files 40: a folder of up to 40 is read at once"):
        loader.LoaderConfig(files=40)


def test_the_gpu_report_has_every_kind_or_says_that_nothing_was_measured(tmp_path, monkeypatch):
    real = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: real(module, backend="aot_eager"))
    monkeypatch.setitem(gpu.CONFIGS, "facade_base", SHAPE)
    gpu.main(gpu.GpuConfig(device="", out=tmp_path))
    assert "Not measured: this machine has no GPU" in (tmp_path / "gpu.md").read_text()
    gpu.main(gpu.GpuConfig("cpu", batch_size=2, rounds=1, models=("facade_base",), side=64, out=tmp_path))
    report = (tmp_path / "gpu.md").read_text()
    assert "Not measured" not in report
    for kind in ("maelib", "maelib, compiled", "Hugging Face"):
        assert f"| facade_base | {kind} |" in report


def test_a_report_says_by_which_command_it_was_made(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "sys.argv", ["/x/benchmarks/speed.py", "--peers", "maelib", "Hugging Face", "--out", str(tmp_path)]
    )
    common.write_report(tmp_path / "a.md", "Title", ["", "text"])
    lines = (tmp_path / "a.md").read_text().splitlines()
    assert lines[0] == "# Title"
    assert lines[2].startswith("`python benchmarks/speed.py --peers maelib 'Hugging Face'`. Machine: ")
    assert lines[3:] == ["", "text"]
