"""Each script in benchmarks/ runs with tiny settings and writes its report, and what it compares is comparable."""

import json
import re
from dataclasses import replace

import common
import detail
import failures
import gpu
import loader
import peers
import perceptual
import properties
import pytest
import quality
import sharpness
import speed
import time_to_quality
import torch
import train_for
import transfer
from tiny import TINY, fill_folder

from maelib.masking import block_mask, mask_to_pixels
from maelib.model import CONFIGS
from maelib.patches import PIXEL_STD, patchify
from maelib.repair.classical import BASELINES
from maelib.repair.evaluate import drawn_test_images
from maelib.transfer.compare import FinetuneConfig, ProbeConfig, Result, random_weights
from maelib.weights.checkpoint import save_model

FAST = {name: BASELINES[name] for name in ("mean_fill", "telea")}
SHAPE = replace(TINY, embed_dim=16, decoder_num_heads=2)


@pytest.fixture
def folders(tmp_path):
    """Two folders of different pictures, 12 and 4, that stand for photos."""
    return {"train": fill_folder(tmp_path / "train", 12), "photos": fill_folder(tmp_path / "photos", 4, first=100)}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a script with some names of its module replaced, and returns the text of its report."""

    def text_of_report(script, config, **replaced):
        for name, value in replaced.items():
            monkeypatch.setattr(script, name, value)
        script.main(replace(config, out=tmp_path / "new"))
        (report,) = tmp_path.glob("new/*.md")
        return report.read_text()

    return text_of_report


def test_a_report_says_by_which_command_it_was_made(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/x/speed.py", "/y/z", "--peers", "Hugging Face", "--out", str(tmp_path)])
    common.write_report(tmp_path / "a.md", "Title", ["", "text"])
    lines = (tmp_path / "a.md").read_text().splitlines()
    assert lines[2].startswith("`python benchmarks/speed.py z --peers 'Hugging Face'`. Machine: ")
    assert lines[3:] == ["", "text"]


# ------------------------------------------------------------------------------------------------ quality of repairs


@pytest.mark.parametrize("name", quality.ROWS)
def test_every_row_of_the_quality_table_asks_for_the_folders_it_needs(name, folders):
    row = quality.ROWS[name]
    wanted = {folder: folders[folder] for folder in folders if getattr(row, folder)}
    assert quality.QualityConfig(name, **wanted).trains == (row.config is not None)
    for missing in wanted:
        with pytest.raises(ValueError, match=f"row {name} .* add --{missing} FOLDER"):
            quality.QualityConfig(name, **{folder: wanted[folder] for folder in wanted if folder != missing})


def test_the_drawn_row_scores_the_bundled_model(run, tmp_path):
    report = run(quality, quality.QualityConfig("drawn", count=2), BASELINES=FAST)
    assert all(words in report for words in ("facade_medium.safetensors", "2 of 96 px", "model above the best"))
    assert 0 < (tmp_path / "new" / "drawn.png").stat().st_size < 300_000


def test_a_mixed_row_trains_after_another_and_keeps_photos_out_of_its_figure(run, tmp_path, folders):
    config = replace(quality.ROWS["mixed64"].config, model=SHAPE, steps=9, drawn=4, val_share=0.25, batch_size=4)
    mixed = quality.Row("small", config, train=True, photos=True, after="first")
    first = quality.Row("smaller", replace(config, model=replace(SHAPE, img_size=64, patch_size=16)))
    drawn, figure = [], quality.evaluation_figure
    replaced = {"ROWS": {"mixed64": mixed, "first": first}, "BASELINES": FAST}
    replaced["evaluation_figure"] = lambda *args: drawn.append(args[2]) or figure(*args)
    report = run(quality, quality.QualityConfig("mixed64", **folders, steps=1, count=2), **replaced)
    assert report.count("Trained 1 steps of 4 = 4 images") == 2
    assert "Learnt from 12 photos, 25% kept for validation" in report
    assert "## Real photos: 4 of 32 px" in report
    assert str(tmp_path) not in report, "a report names no path of the machine"
    assert torch.equal(torch.cat(drawn), drawn_test_images(32, count=2))


def test_properties_of_a_hand_made_picture():
    image = torch.zeros(3, 32, 32)
    image[:, :, 0::16] = 1.0  # stripes that repeat every 16 px, nothing from top to bottom
    hole = torch.zeros(32, 32, dtype=torch.bool)
    hole[8:16, 8:16] = True  # between two stripes
    found = dict(zip(properties.PROPERTIES, properties.measure(image, hole, 8), strict=True))
    share = (2 * 32) / (32 * 32 - 64)
    assert found.pop("contrast") == pytest.approx(255 * (share * (1 - share)) ** 0.5, rel=1e-3)  # n - 1 against n
    assert found.pop("depth") == pytest.approx((28 * 1 + 20 * 2 + 12 * 3 + 4 * 4) / 64)  # ring by ring
    assert found.pop("detail") > 0
    expected = {"repetition error": 0, "reach of the copy": 1, "truth's gradient": 0, "colour step": 255 * share}
    assert found == pytest.approx(expected, abs=1e-6)


def test_failures_are_reported(run, folders):
    rivals = {name: BASELINES[name] for name in failures.RIVALS}
    report = run(failures, failures.FailuresConfig(photos=folders["photos"], count=4), FEWEST=0, BASELINES=rivals)
    assert "## Drawn facades, held out: 4 images" in report
    assert "## Real photos: 4 images" in report
    assert all(f"| {name}: " in report for name in properties.PROPERTIES)


def test_the_sharpness_report_has_a_row_for_every_loss(run, tmp_path):
    losses = ("squared error alone", "1 + 0.008, windows of 4")
    config = sharpness.SharpnessConfig(losses=losses, steps=1, size=32, count=4, vgg="random")
    few = replace(sharpness.recipe(config, losses[1], tmp_path), drawn=8, batch_size=4, val_images=4)
    report = run(sharpness, config, recipe=lambda config, loss, out: replace(few, out=out))
    assert all(f"| {loss} | " in report for loss in losses)


def test_the_detail_report_has_every_method_for_drawings_and_photos(run, tmp_path, folders):
    small = {"first": 2, "drawn": 2, "processes": 1, "vgg": "random", "page": True}
    config = detail.DetailConfig(photos=folders["photos"], **small)
    report = run(detail, config, SIDES=dict.fromkeys(detail.SIDES, 64))
    methods = [detail.FULL, detail.HALF, *detail.CLASSICAL, detail.UNGUIDED]
    methods += [detail.RIVAL] * bool(detail.find_rival())
    for name in (common.DRAWN, common.PHOTOS):
        section = report.partition(f"## {name}: ")[2].partition("## ")[0]
        assert all(section.count(f"| {method} | ") >= 2 for method in methods)
        assert section.count(f"| {detail.MODEL} | ") == 1
    assert all((tmp_path / "new" / name).stat().st_size > 10_000 for name in ("detail.png", "detail_page.png"))
    with pytest.raises(ValueError, match="image 3 is nearly all border fill"):
        detail.find_hole("block", 3, torch.zeros(64, 64, dtype=torch.bool).numpy())


def test_the_transfer_report_compares_every_row_and_says_when_nothing_was_gained(run, tmp_path):
    rows = ProbeConfig("segmentation", labels=6), FinetuneConfig("style", labels=6, steps=1)
    save_model(tmp_path / "small.safetensors", random_weights(SHAPE, 0), {})
    report = run(transfer, transfer.BenchmarkConfig(tmp_path / "small.safetensors", seeds=1, test=12), ROWS=rows)
    assert report.count("\n- probe, ") == report.count("\n- fine-tuning, ") == 1
    for ends, words in {
        (0.5, 0.8): "pre-training does not clearly help: +45.0 points, from -18.5 to +108.5",  # 9 standard errors
        (0.6, 0.8): "pre-training helps: +50.0 points, from +50.0 to +50.0",
    }.items():
        scores = {"scratch": torch.tensor([0.1, 0.3]), "pretrained": torch.tensor(ends)}
        assert transfer.verdict(Result(ProbeConfig("style", seeds=2), scores)) == words


# ------------------------------------------------------------------------------------- speed, beside other libraries


@pytest.mark.parametrize("name", peers.PEERS)
def test_a_peer_predicts_hidden_patches_from_visible_ones_and_its_loss_is_theirs(name):
    pytest.importorskip(peers.PACKAGES.get(name, "torch").replace("-", "_"))
    torch.manual_seed(0)
    peer, images = peers.PEERS[name](SHAPE), torch.rand(3, 3, 32, 32)
    sizes = [sum(p.numel() for p in module.parameters() if p.requires_grad) for module in (peer, peers.Ours(SHAPE))]
    assert max(sizes) < 1.05 * min(sizes)
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


def test_speed_reports_every_kind(run):
    small = {"batch_size": 2, "rounds": 1, "ratios": (0.5,), "peers": ("maelib",), "vgg": "random", "shape": SHAPE}
    slow = {"matmul_peak": lambda dtype: 1e12, "peak_memory": lambda *args: 1.0}  # some seconds, and a process each
    report = run(speed, speed.SpeedConfig(**small), **slow, versions=str)
    for name in ("| float32, 0.5 hidden | maelib |", "| bf16, 0.5 hidden | maelib |", *speed.WHOLE_STEPS):
        assert name in report


def test_the_cost_of_the_perceptual_loss_is_reported_and_its_kinds_agree(run):
    losses = perceptual.kinds("random")
    images, prediction = drawn_test_images(CONFIGS["facade_base"].img_size, count=1), torch.rand(1, 196, 768)
    mask = block_mask(1, (14, 14), 0.1, torch.Generator().manual_seed(0))
    values = [loss(prediction, images, mask)["loss"].item() for loss in losses.values()]
    assert values[1:4] == pytest.approx([values[1]] * 3, rel=1e-4)
    assert values[4] == pytest.approx(values[1], rel=0.02)  # a bf16 number is right to 0.4%
    report = run(perceptual, perceptual.PerceptualConfig(), measure=lambda _: {k: [9.0, 2.0, 0.0] for k in losses})
    assert all(f"| {name} | 2.00 | 1.00 | 0.00 |" in report for name in losses)


def test_time_to_quality_reports_every_model_at_every_time(run):
    small = {"peers": ("maelib, its recipe",), "shape": SHAPE, "drawn": 40, "count": 8}
    report = run(time_to_quality, time_to_quality.TimeConfig((0.005, 0.01), **small), versions=str)
    early, late = (line.split("|")[1:-1] for line in report.splitlines() if " min |" in line)
    assert int(late[2]) > int(early[2]) > 0
    assert all(5 < float(psnr) < 40 for psnr in early[3:] + late[3:])


def test_the_loader_report_has_folder_and_pool(run):
    recipe = replace(loader.RECIPES["facade_tiny"], model=SHAPE, batch_size=4, val_images=4)
    config = loader.LoaderConfig(files=60, steps=5, recipes=("facade_tiny",))
    pool = loader.DrawnImages
    report = run(loader, config, RECIPES={"facade_tiny": recipe}, DrawnImages=lambda count, size: pool(20, size))
    rows = [line for line in report.splitlines() if line.startswith("| facade_tiny")]
    assert [("60 .npy" in row, "pool" in row) for row in rows] == [(True, False), (True, False), (False, True)]


def test_the_gpu_report_has_every_kind_or_says_that_nothing_was_measured(run, monkeypatch):
    real = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: real(module, backend="eager"))
    monkeypatch.setitem(gpu.CONFIGS, "facade_base", SHAPE)
    report = " ".join(run(gpu, gpu.GpuConfig(device="")).split())
    assert "Not measured: this machine has no GPU" in report
    assert re.search(r"takes \d+ GFLOP, and moves [\d.]+ GB .* allows [1-9]\d* images a second", report)
    report = run(gpu, gpu.GpuConfig(device="cpu", batches=(2,), rounds=1, models=("facade_base",), side=64))
    assert all(f"| facade_base | {kind} |" in report for kind in gpu.KINDS)
    shares = [float(row.split("|")[2].strip(" %")) for row in report.splitlines() if row.count("|") == 3 and "%" in row]
    assert sum(shares) == pytest.approx(100, abs=4)  # rounded


def test_training_for_some_minutes_takes_as_many_steps_as_fit(tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr(train_for, "train", lambda options, steps, *more: taken.append(steps) or 5 + steps / 10)
    monkeypatch.setattr(train_for.training, "prefetch", None)  # put back afterwards, and so is `ahead`
    monkeypatch.setattr(train_for.training, "ahead", None)
    train_for.main(2, ["--out", str(tmp_path)])
    assert taken[-1] == pytest.approx(0.95 * (120 - 5) * 10, rel=0.02)  # ten a second, after five seconds
    assert json.loads((tmp_path / "minutes.json").read_text())["steps"] == taken[-1]
    assert list(train_for.waiting(range(3), [])) == [0, 1, 2]
