"""Predictions, exercise checks, figures: what the notebooks share."""

import base64
import importlib
from pathlib import Path

import pytest
import torch
from IPython.core.formatters import DisplayFormatter
from matplotlib.figure import Figure

from maelib.course.check import Verdict, check, difference, figure, own_photos, predict, reveal
from maelib.course.exercises import EXERCISES

course = importlib.import_module("maelib.course.check")  # the package holds a function of that name
MISTAKES = [(name, *mistake) for name, exercise in EXERCISES.items() for mistake in exercise.mistakes]


# --------------------------------------------------------------------------------------------------------- exercises


@pytest.mark.parametrize("name", EXERCISES)
def test_the_solution_passes_and_is_praised(name: str) -> None:
    assert check(name, EXERCISES[name].solution) == Verdict(True, f"Exercise {name}: passed. {EXERCISES[name].praise}")


@pytest.mark.parametrize(("name", "mistake", "hint"), MISTAKES, ids=lambda value: value if value in EXERCISES else "")
def test_each_foreseen_mistake_gets_its_own_hint(name: str, mistake: object, hint: str) -> None:
    assert check(name, mistake) == Verdict(False, f"Exercise {name}: not yet. {hint}")


@pytest.mark.parametrize("name", EXERCISES)
def test_no_two_mistakes_share_a_hint(name: str) -> None:
    hints = [hint for _, hint in EXERCISES[name].mistakes]
    assert len(set(hints)) == len(hints) >= 3


def answer_ellipsis(mask: torch.Tensor) -> torch.Tensor: ...


def answer_not_implemented(mask: torch.Tensor) -> torch.Tensor:
    raise NotImplementedError


@pytest.mark.parametrize("stub", [answer_ellipsis, answer_not_implemented, lambda mask: ..., None, ...])
def test_an_untouched_stub_is_not_attempted_yet(stub: object) -> None:
    verdict = check("00.1", stub)
    assert not verdict.passed
    assert "not attempted yet" in verdict.text
    assert "\n" not in repr(verdict)


def answer_mask_mean_by_loop(mask: torch.Tensor) -> list[float]:
    return [sum(row.tolist()) / len(row) for row in mask]


def answer_that_writes_into_its_argument(mask: torch.Tensor) -> torch.Tensor:
    mask.logical_not_()
    return 1 - mask.float().mean(1)


@pytest.mark.parametrize("answer", [answer_mask_mean_by_loop, answer_that_writes_into_its_argument])
def test_right_answers_pass_whatever_way_they_go(answer: object) -> None:
    assert check("00.1", answer).passed


def answer_that_fails(mask: torch.Tensor) -> torch.Tensor:
    return mask.float() @ torch.ones(3)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (answer_that_fails, "stops with RuntimeError at `return mask.float() @ torch.ones(3)`"),
        (lambda mask, ratio: mask, "stops with TypeError"),
        (lambda mask: "half", "returns a str; a number tensor of shape (3,) is wanted"),
        (lambda mask: mask[:, 0], "returns a bool tensor of shape (3,); a number tensor"),
        (lambda mask: torch.full((3,), torch.nan), "returns nan at [0]; 0.125 is wanted"),
        (0.5, "returns a single number"),
    ],
)
def test_an_unforeseen_mistake_is_described(answer: object, words: str) -> None:
    verdict = check("00.1", answer)
    assert not verdict.passed
    assert words in verdict.text


def test_an_unknown_exercise_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no exercise '9\.9'; the exercises are 00\.1"):
        check("9.9", None)


@pytest.mark.parametrize(
    ("got", "want", "equal"),
    [
        (0.25, torch.tensor(0.25), True),
        ([1, 2], torch.tensor([1.0, 2.0]), True),
        (torch.tensor([True]), torch.tensor([1]), False),
        (torch.tensor([1.0]), torch.tensor(1.0), False),
        (torch.tensor(1.01), torch.tensor(1.0), False),
        (torch.tensor(1.00001), torch.tensor(1.0), True),  # single precision may be summed in any order
        (ValueError("a"), ValueError("a"), True),
        (ValueError("a"), ValueError("b"), False),
        (1, ValueError("a"), False),
    ],
)
def test_difference_is_none_for_equal_outcomes_alone(got: object, want: object, equal: bool) -> None:
    assert (difference(got, want) is None) is equal


# ------------------------------------------------------------------------------------------------------- predictions


@pytest.fixture(autouse=True)
def _no_predictions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(course, "_prompts", {})
    monkeypatch.setattr(course, "_hits", {})


def test_a_prompt_that_nobody_clicks_records_nothing() -> None:
    predict("00.a", "Which?", ["this", "that"])
    assert reveal("00.a", "that") == Verdict(False, "Prediction 00.a: none made. Answer: that.")


def test_predictions_are_compared_and_scored() -> None:
    for name, pick in {"00.a": "this", "00.b": "that", "00.c": None}.items():
        predict(name, "Which?", ["this", "that"]).choice.value = pick
    assert reveal("00.a", "this").text == "Prediction 00.a: right. Answer: this. Score 1/1."
    assert reveal("00.b", "this").text == "Prediction 00.b: you expected: that. Answer: this. Score 1/2."
    assert "none made" in reveal("00.c", "this").text
    assert "Score 1/2" in reveal("00.a", "this").text, "looking twice does not count twice"


def test_running_a_prompt_again_starts_it_anew() -> None:
    predict("00.a", "Which?", ["this", "that"]).choice.value = "this"
    reveal("00.a", "this")
    predict("00.a", "Which?", ["this", "that"])
    assert "none made" in reveal("00.a", "this").text


def test_a_prompt_reads_as_plain_text() -> None:
    data, _ = DisplayFormatter().format(predict("00.a", "Which?" * 40, ["this", "that"]))
    assert data["text/plain"] == f"Predict 00.a: {'Which?' * 40}\n  ( ) this\n  ( ) that"


def test_an_answer_that_was_no_option_is_refused() -> None:
    predict("00.a", "Which?", ["this", "that"])
    with pytest.raises(ValueError, match="'other' is no option"):
        reveal("00.a", "other")
    with pytest.raises(ValueError, match="run its cell first"):
        reveal("00.z", "this")


# ----------------------------------------------------------------------------------------------- figures and photos


def test_a_figure_is_a_png_that_says_what_it_shows() -> None:
    picture = figure(Figure(figsize=(1, 1)), alt="An empty figure.")
    data, metadata = DisplayFormatter().format(picture)
    assert data["text/plain"] == "An empty figure."
    assert metadata["image/png"] == {"alt": "An empty figure."}
    png = data["image/png"]
    assert (png if isinstance(png, bytes) else base64.b64decode(png)).startswith(b"\x89PNG")


def test_own_photos_lie_in_the_repository_or_else_beside_the_notebook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, repository = tmp_path / "beside", tmp_path / "data"
    for folder in (beside, repository / "photos"):
        folder.mkdir(parents=True)
        for name in ("b.PNG", "a.jpeg", "a_mask.png", "a_repaired.jpeg", "README.md"):
            (folder / name).touch()
    monkeypatch.chdir(beside)
    monkeypatch.setattr(course, "data_folder", lambda: repository)
    assert own_photos() == [repository / "photos" / "a.jpeg", repository / "photos" / "b.PNG"]
    monkeypatch.setattr(course, "data_folder", lambda: tmp_path / "installed")
    assert own_photos() == [beside / "a.jpeg", beside / "b.PNG"]
