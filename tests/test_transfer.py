"""Transfer: labels that are fair, heads that learn, encoders frozen or trained, and comparisons that repeat."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchmetrics.functional.classification as oracle
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny import TINY, same

from maelib.cli import main
from maelib.data.augment import to_float
from maelib.data.images import TEST_SEEDS
from maelib.facades import LABELS, STYLES
from maelib.training.train import VALIDATION_SEED
from maelib.transfer import compare as transfer
from maelib.transfer import labelled
from maelib.transfer.classifier import Classifier, confusion, finetune, probe
from maelib.transfer.compare import ProbeConfig, Result, compare, random_weights, table
from maelib.transfer.labelled import DATA_SETS, IGNORED, LABEL_SEEDS, Labelled, mean_accuracy, mean_iou
from maelib.weights.checkpoint import save_model

SMALL = replace(TINY, embed_dim=16)
MODEL = random_weights(SMALL, 0)


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def toy(count, seed, per_patch=False):
    """Noise, reddish for class 0 and bluish for class 1; whole images or patches of 8 px."""
    rng, side = np.random.default_rng(seed), 4 if per_patch else 1
    targets = rng.permutation(np.arange(count * side**2) % 2).reshape(count, -1)
    blue = targets.reshape(count, side, side).repeat(32 // side, 1).repeat(32 // side, 2)
    images = rng.integers(60, 140, (count, 3, 32, 32))
    images[:, 0] += 60 * (1 - blue)
    images[:, 2] += 60 * blue
    targets = torch.from_numpy(targets if per_patch else targets[:, 0])
    return Labelled(torch.from_numpy(images.astype(np.uint8)), targets)


@pytest.fixture
def small_checkpoint(tmp_path):
    save_model(tmp_path / "small.safetensors", MODEL, {})
    return tmp_path / "small.safetensors"


# ------------------------------------------------------------------------------------------------ few labels


@given(st.lists(st.integers(0, 4), max_size=60), st.integers(1, 40))
def test_a_balanced_pick_holds_the_classes_equally_often_or_is_refused(classes, labels):
    counts = np.bincount(classes, minlength=5)
    wanted = [labels // 5 + (k < labels % 5) for k in range(5)]
    if labels < 5 or (counts < wanted).any():
        with pytest.raises(ValueError, match=f"labels {labels} "):
            labelled.pick_balanced(enumerate(classes), labels, 5)
        return
    picked = labelled.pick_balanced(enumerate(classes), labels, 5)
    assert [Counter(label for _, label in picked)[k] for k in range(5)] == wanted
    assert len({item for item, _ in picked}) == labels
    assert all(classes[item] == label for item, label in picked)


@pytest.mark.parametrize("name", ["style", "segmentation"])
def test_each_seed_labels_facades_of_its_own_which_are_never_tested_or_pre_trained_on(name, monkeypatch):
    seeds, original = [], labelled.draw_facade
    monkeypatch.setattr(labelled, "draw_facade", lambda seed, size: seeds.append(seed) or original(seed, size))
    for few in [DATA_SETS[name].few(12, seed, SMALL, Path()) for seed in (0, 1, 99)]:
        assert few.images.shape == (12, 3, 32, 32)
        assert name != "style" or torch.bincount(few.targets).tolist() == [2] * len(STYLES)
    assert len(set(seeds)) == len(seeds)
    assert set(seeds) <= set(LABEL_SEEDS)
    seeds.clear()
    assert DATA_SETS[name].test(5, SMALL, Path()).images.shape == (5, 3, 32, 32)
    assert set(seeds) <= set(TEST_SEEDS) - set(LABEL_SEEDS)
    assert LABEL_SEEDS.start >= 2_000_000  # training draws from the first million
    assert LABEL_SEEDS.stop <= VALIDATION_SEED * 1_000_000


def test_a_patch_is_a_door_or_a_window_from_a_quarter_of_it_and_ignored_where_void_touches_it():
    labels = np.full((1, 8, 20), LABELS.index("wall"), np.uint8)
    labels[0, :2, :2] = LABELS.index("window")  # exactly a quarter of patch 0
    labels[0, :3, 4:5] = LABELS.index("window")  # less of patch 1
    labels[0, :4, 8:12] = LABELS.index("window")  # all of patch 2, but for the door
    labels[0, :2, 8:10] = LABELS.index("door")
    labels[0, :4, 12:16] = LABELS.index("door")  # all of patch 3, but for a pixel of void
    labels[0, 3, 15] = LABELS.index("void")
    assert labelled.patch_targets(labels, 4).tolist() == [[1, 0, 2, IGNORED, 0] + [0] * 5]


def fake_cifar(root, train, download):
    """As torchvision's CIFAR-10; the grey level of a picture says which image of which part it is."""
    return [(Image.new("RGB", (32, 32), (i + 100 * train,) * 3), i % 10) for i in range(60 if train else 30)]


def test_cifar10_is_balanced_enlarged_and_its_parts_are_kept_apart(monkeypatch, tmp_path):
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", fake_cifar)
    data, large = DATA_SETS["cifar10"], replace(SMALL, img_size=48)
    few, other = (data.few(20, seed, large, tmp_path) for seed in (0, 1))
    assert few.images.shape == (20, 3, 48, 48)
    assert torch.bincount(few.targets).tolist() == [2] * 10
    assert few.images.min() >= 100
    assert torch.equal((few.images[:, 0, 0, 0] - 100) % 10, few.targets)
    assert not torch.equal(few.images, other.images)
    assert data.test(7, SMALL, tmp_path).images[:, 0, 0, 0].tolist() == list(range(7))


def test_cifar10_that_cannot_be_had_is_named_with_the_cure(monkeypatch, tmp_path):
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path}.*cifar-10-python\.tar\.gz .*--folder"):
        DATA_SETS["cifar10"].few(20, 0, SMALL, tmp_path)


# --------------------------------------------------------------------------------------------------- scores


@pytest.mark.parametrize("shape", [(40,), (40, 16)])
def test_scores_agree_with_torchmetrics_and_ignore_what_is_ignored_and_classes_that_nothing_shows(shape):
    torch.manual_seed(0)
    targets, logits = torch.randint(0, 3, shape), torch.randn(*shape, 4)
    targets[::5], logits[..., 3] = IGNORED, -torch.inf
    classifier = SimpleNamespace(head=SimpleNamespace(out_features=4), in_batches=lambda function, images: logits)
    counts = confusion(classifier, Labelled(torch.empty(0), targets))
    assert counts.sum() == (targets != IGNORED).sum()
    arguments = logits.argmax(-1).flatten(), targets.flatten()
    options = {"num_classes": 4, "average": "macro", "ignore_index": IGNORED}
    assert mean_accuracy(counts) == pytest.approx(oracle.multiclass_accuracy(*arguments, **options).item())
    assert mean_iou(counts) == pytest.approx(oracle.multiclass_jaccard_index(*arguments, **options).item())


# ---------------------------------------------------------------------------------------------------- heads


@pytest.mark.parametrize("per_patch", [False, True])
def test_a_probe_separates_what_is_separable_and_leaves_the_encoder_as_it_is(per_patch):
    before = state(MODEL)
    classifier = probe(MODEL, toy(16, 0, per_patch), 2)
    assert same(state(classifier.encoder), before)
    assert mean_accuracy(confusion(classifier, toy(40, 1, per_patch))) == 1


def test_the_probe_is_the_best_head_there_is():
    """The objective is convex, so its gradient vanishes at the minimum alone."""
    few, penalty = toy(12, 2), 0.02
    classifier = probe(MODEL, few, 2, penalty)
    features = classifier.in_batches(classifier.features, few.images)
    standard = F.batch_norm(features, None, None, training=True, eps=1e-12)
    weight = (classifier.head.weight.detach() * features.std(dim=0, correction=0)).requires_grad_()
    bias = classifier.head(features.mean(dim=0)).detach().requires_grad_()
    loss = F.cross_entropy(standard @ weight.T + bias, few.targets) + penalty / 2 * weight.square().sum()
    assert torch.cat([x.flatten() for x in torch.autograd.grad(loss, (weight, bias))]).abs().max() < 1e-4


@pytest.mark.parametrize("per_patch", [False, True])
def test_finetuning_trains_a_copy_of_the_encoder_and_learns(per_patch):
    before = state(MODEL)
    classifier = finetune(MODEL, toy(16, 0, per_patch), 2, steps=40, batch_size=8, lr=3e-3, seed=0)
    assert same(state(MODEL), before)
    after = state(classifier.encoder)
    frozen = {name for name in before if torch.equal(before[name], after[name])}
    assert frozen == {name for name in before if "decoder" in name} | {"mask_token", "pos_embed"}
    assert mean_accuracy(confusion(classifier, toy(40, 1, per_patch))) > 0.9


def test_seeds_of_finetuning_repeat_and_differ_and_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    first, again, other = (state(finetune(MODEL, toy(8, 0), 2, 3, 4, 3e-3, seed)) for seed in (0, 0, 1))
    random_weights(SMALL, 0)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(first, again)
    assert not same(first, other)


def test_finetuning_that_diverges_stops_and_names_the_learning_rate():
    with pytest.raises(FloatingPointError, match=r"step \d+: .* lr than 1e\+20"):
        finetune(MODEL, toy(8, 0), 2, 20, 4, 1e20, 0)


def test_ignored_patches_teach_nothing():
    few = toy(8, 0, per_patch=True)
    void = Labelled(few.images, torch.full_like(few.targets, IGNORED))
    assert same(state(finetune(MODEL, void, 2, 3, 4, 3e-3, 0).encoder), state(MODEL))
    both = Labelled(torch.cat([few.images, few.images.flip(0)]), torch.cat([few.targets, void.targets]))
    assert same(state(probe(MODEL, few, 2)), state(probe(MODEL, both, 2)))


def test_the_class_token_is_no_patch():
    model, image = random_weights(replace(SMALL, class_token=True), 0), to_float(toy(1, 0).images)
    classifier = Classifier(model, 3, per_patch=True)
    assert classifier(image).shape == (1, 16, 3)
    assert torch.equal(classifier.features(image), model.encode(image)[:, 1:])
    assert torch.equal(Classifier(model, 3, per_patch=False).features(image), model.encode(image)[:, 1:].mean(dim=1))


# ----------------------------------------------------------------------------------------------- comparison


def test_pre_trained_means_the_checkpoint_and_both_starts_see_the_same_labels(small_checkpoint, monkeypatch):
    seen = []
    monkeypatch.setattr(transfer, "probe", lambda *args: seen.append((state(args[0]), args[1].images)) or probe(*args))
    compare(ProbeConfig("style", small_checkpoint, labels=6, seeds=2, test=6))
    (scratch, few), (pretrained, same_few), (other_scratch, other_few), (again, _) = seen
    assert same(pretrained, state(MODEL))
    assert same(again, state(MODEL))
    assert not same(scratch, other_scratch)
    assert torch.equal(few, same_few)
    assert not torch.equal(few, other_few)


def test_means_and_standard_errors_are_those_of_the_textbook():
    scores = {"scratch": torch.tensor([0.1, 0.2, 0.3]), "pretrained": torch.tensor([0.5, 0.6, 0.7])}
    row = table([Result(ProbeConfig("style", seeds=3), scores)]).splitlines()[-1]
    assert row.endswith("| 20.0 ± 5.8 | 60.0 ± 5.8 | +40.0 ± 0.0 |")


def test_a_comparison_runs_from_the_command_line(small_checkpoint, capsys):
    few = "--steps 1 --seeds 2 --test 10 --labels 10"
    main(f"finetune segmentation --checkpoint {small_checkpoint} {few}".split())
    assert "| fine-tuning, segmentation, labels: 10, seeds: 2 |" in capsys.readouterr().out
