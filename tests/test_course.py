"""Exercise checks, predictions, pictures and photos: what the lessons share."""

import pickle
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from IPython.core.formatters import DisplayFormatter
from matplotlib.figure import Figure
from tiny import TINY

import maelib.course
from maelib.course import check, figure, own_photos, predict, reveal
from maelib.course.check import Stopped, Verdict, cases, difference
from maelib.course.diagram import architecture
from maelib.course.exercises import EXERCISES
from maelib.patches import patchify
from maelib.transfer.compare import random_weights

MISTAKES = [(name, *mistake) for name, exercise in EXERCISES.items() for mistake in exercise.mistakes]


# --------------------------------------------------------------------------------------------------------- exercises


@pytest.mark.parametrize("name", EXERCISES)
def test_the_solution_passes_and_every_mistake_has_a_hint_of_its_own(name: str) -> None:
    assert check(name, EXERCISES[name].solution) == Verdict(True, f"Exercise {name}: passed. {EXERCISES[name].praise}")
    hints = [hint for _, hint in EXERCISES[name].mistakes]
    assert len(set(hints)) == len(hints) >= 3


@pytest.mark.parametrize(("name", "mistake", "hint"), MISTAKES, ids=lambda value: value if value in EXERCISES else "")
def test_each_foreseen_mistake_gets_its_hint(name: str, mistake: object, hint: str) -> None:
    assert check(name, mistake) == Verdict(False, f"Exercise {name}: not yet. {hint}")


def answer_not_implemented(mask: torch.Tensor) -> torch.Tensor:
    raise NotImplementedError


@pytest.mark.parametrize("stub", [answer_not_implemented, lambda mask: ..., lambda mask: None, None, ...])
def test_an_untouched_stub_is_not_attempted_yet(stub: object) -> None:
    verdict = check("00.1", stub)
    assert not verdict.passed
    assert "not attempted yet" in verdict.text
    assert "\n" not in repr(verdict)


def answer_that_writes_into_its_argument(mask: torch.Tensor) -> torch.Tensor:
    mask.logical_not_()
    return 1 - mask.float().mean(1)


def test_a_right_answer_passes_unless_it_changes_its_argument() -> None:
    assert check("00.1", lambda mask: [sum(row.tolist()) / len(row) for row in mask]).passed
    assert "not yet. It changes its argument `mask`" in check("00.1", answer_that_writes_into_its_argument).text


@pytest.mark.parametrize("name", EXERCISES)
def test_other_seeds_draw_other_cases_with_the_same_verdicts(name: str) -> None:
    assert len(cases(name)) >= 3
    assert [plain(pickle.loads(pickle.dumps(cases(name, 7))))] == [plain(cases(name, 7))]
    assert plain(cases(name, 7)) != plain(cases(name)), "a secret seed would change nothing"
    assert check(name, EXERCISES[name].solution, 7).passed
    for mistake, hint in EXERCISES[name].mistakes:
        assert check(name, mistake, 7).text == f"Exercise {name}: not yet. {hint}"


def plain(value: object) -> object:
    if isinstance(value, torch.nn.Module):
        return [plain(value.state_dict()), [str(parameter.grad) for parameter in value.parameters()]]
    if isinstance(value, dict):
        return plain(list(value.items()))
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return plain([value.func.__name__, *value.args]) if isinstance(value, partial) else str(value)


def answer_that_fails(mask: torch.Tensor) -> torch.Tensor:
    return mask.float() @ torch.ones(3)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (answer_that_fails, "stops with RuntimeError at `return mask.float() @ torch.ones(3)`"),
        (lambda mask, ratio: mask, "stops with TypeError"),
        (lambda mask: "half", "returns a str; a number tensor of shape (3,) is wanted"),
        (lambda mask: mask[:, 0], "returns a bool tensor of shape (3,); a number tensor"),
        (lambda mask: torch.full((len(mask),), torch.nan), "returns nan at [0]; 0."),
        (0.5, "returns a single number"),
    ],
)
def test_an_unforeseen_mistake_is_described(answer: object, words: str) -> None:
    verdict = check("00.1", answer)
    assert not verdict.passed
    assert words in verdict.text


@pytest.mark.parametrize(
    ("got", "want", "equal"),
    [
        (0.25, torch.tensor(0.25), True),
        ([1, 2], torch.tensor([1.0, 2.0]), True),
        (torch.tensor([True]), torch.tensor([1]), False),
        (torch.tensor([1.0]), torch.tensor(1.0), False),
        (torch.tensor(1.00001), torch.tensor(1.0), True),  # single precision may be summed in any order
        (14_700_000, 14_700_001, False),  # whole numbers are counts
        (14_700_001.0, 14_700_001, True),
        (Stopped("ValueError", "a", "here"), Stopped("ValueError", "a"), True),
        (Stopped("ValueError", "a"), Stopped("ValueError", "b"), False),
        (1, Stopped("ValueError", "a"), False),
        (np.arange(3)[::-1], torch.tensor([2, 1, 0]), True),
    ],
)
def test_difference_is_none_for_equal_outcomes_alone(got: object, want: object, equal: bool) -> None:
    assert (difference(got, want) is None) is equal


def test_numbers_are_printed_until_they_differ() -> None:
    assert difference(14_700_000, 14_700_001) == "It returns 14700000; 14700001 is wanted."
    assert difference(0.50001, 0.5009) == "It returns 0.5; 0.501 is wanted."
    assert difference(100.12, 100.42) == "It returns 100.1; 100.4 is wanted."


# ------------------------------------------------------------------------------------------------------- predictions


def test_predictions_are_compared_and_scored_once_each() -> None:
    for name, pick in {"t.a": "this", "t.b": "that", "t.c": None}.items():
        predict(name, "Which?", ["this", "that"]).choice.value = pick
    assert reveal("t.a", "this") == Verdict(True, "Prediction t.a: right. Answer: this. Score 1/1.")
    assert reveal("t.b", "this") == Verdict(False, "Prediction t.b: you expected: that. Answer: this. Score 1/2.")
    assert reveal("t.c", "that") == Verdict(False, "Prediction t.c: none made. Answer: that.")
    assert reveal("t.a", "this").text.endswith("Score 1/2."), "a prediction that is looked at twice counts once"
    predict("t.a", "Which?", ["this", "that"])
    assert "none made" in reveal("t.a", "this").text, "a prompt that runs again starts anew"


def test_a_prompt_reads_as_plain_text() -> None:
    data, _ = DisplayFormatter().format(predict("t.d", "Which?" * 40, ["this", "that"]))
    assert data["text/plain"] == f"Predict t.d: {'Which?' * 40}\n  ( ) this\n  ( ) that"


@pytest.mark.parametrize(("name", "answer"), [("t.e", "other"), ("t.z", "this")])
def test_an_answer_that_was_no_option_is_refused(name: str, answer: str) -> None:
    predict("t.e", "Which?", ["this", "that"])
    with pytest.raises(ValueError, match=f"'{answer}' .* '{name}'.* run the cell"):
        reveal(name, answer)


# ----------------------------------------------------------------------------------------------- pictures and photos


def test_a_figure_carries_its_caption_under_it_and_as_alt_text() -> None:
    caption = 'Figure 1. An "empty" figure, 1 < 2.'
    data, _ = DisplayFormatter().format(figure(Figure(figsize=(1, 1)), caption))
    assert data.keys() == {"text/plain", "text/html"}, "the picture is stored once"
    assert data["text/plain"] == caption
    page = BeautifulSoup(data["text/html"], "html.parser")
    assert page.img["alt"] == page.figcaption.text == caption
    assert page.img["src"].startswith("data:image/png;base64,iVBORw0KGgo")  # PNG's first bytes


@pytest.mark.parametrize("class_token", [False, True])
def test_the_architecture_states_the_shapes_that_the_model_computes(class_token: bool) -> None:
    config = replace(TINY, class_token=class_token, decoder_embed_dim=2 * TINY.embed_dim)
    model, images, mask = random_weights(config, 0), torch.rand(2, 3, *[config.img_size] * 2), torch.arange(2 * 16) % 16
    shapes = [images.shape, patchify(images, config.patch_size).shape]
    parts = [model.patch_embed, model.blocks[0], model.norm, model.decoder_embed, model.decoder_blocks[0]]
    for part in [*parts, model.decoder_norm]:
        part.register_forward_hook(lambda part, inputs, output: shapes.append(output.shape))
    shapes += [model(images, mask.reshape(2, 16) < 5).shape, images.shape]
    stated = [text.get_text() for axis in architecture(config, 5).axes for text in axis.texts]
    assert [text for text in stated if text.startswith("(")] == [f"(B, {str(tuple(s))[4:]}" for s in shapes]


def test_own_photos_lie_in_the_repository_or_else_beside_the_notebook(tmp_path, monkeypatch) -> None:
    beside, repository = tmp_path / "beside", tmp_path / "data"
    others = ("a_mask.png", "a_repaired.jpeg", "a_side_by_side.png", "README.md", "._b.PNG")
    for folder in (beside, repository / "photos"):
        folder.mkdir(parents=True)
        for name in ("b.PNG", "a.jpeg", "c.webp", "d.jfif", *others):
            (folder / name).touch()
    monkeypatch.chdir(beside)
    monkeypatch.setattr(maelib.course, "data_folder", lambda: repository)
    assert own_photos() == [repository / "photos" / name for name in ("a.jpeg", "b.PNG", "c.webp", "d.jfif")]
    monkeypatch.setattr(maelib.course, "data_folder", lambda: tmp_path / "installed")
    assert [path.parent for path in own_photos()] == [beside] * 4
