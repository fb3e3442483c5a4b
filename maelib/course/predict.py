"""Predictions: the learner picks an answer before the cells that show it, and learns afterwards how it went."""

from typing import Any

import ipywidgets

from maelib.course.check import Verdict


class Prompt(ipywidgets.VBox):
    """A question with answers to pick from; reads as plain text where no kernel runs."""

    def __init__(self, name: str, question: str, options: list[str]) -> None:
        self.text, self.hit = f"Predict {name}: {question}", None
        self.choice = ipywidgets.RadioButtons(options=options, value=None, layout={"width": "max-content"})
        super().__init__([ipywidgets.Label(self.text), self.choice])

    def __repr__(self) -> str:
        return "\n".join([self.text, *(f"  ( ) {option}" for option in self.choice.options)])

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        return {**super()._repr_mimebundle_(**kwargs), "text/plain": repr(self)}  # ipywidgets cuts it at 110 letters


_prompts: dict[str, Prompt] = {}


def predict(name: str, question: str, options: list[str]) -> Prompt:
    """Ask for a guess, to be picked before the cells that show the answer; `reveal` compares the two."""
    _prompts[name] = Prompt(name, question, options)
    return _prompts[name]


def reveal(name: str, answer: str) -> Verdict:
    """Compare the guess made at the prompt `name` with `answer`, one of its options, and give the score so far.

    Raises
    ------
    ValueError
        When `answer` is not one of the options, or the cell with the prompt has not run.
    """
    prompt = _prompts.get(name)
    if prompt is None or answer not in prompt.choice.options:
        raise ValueError(f"{answer!r} is not an option of prompt {name!r}; run the cell with the prompt first")
    guess = prompt.choice.value
    if guess is None:
        return Verdict(False, f"Prediction {name}: none made. Answer: {answer}.")
    prompt.hit = guess == answer
    hits = [other.hit for other in _prompts.values() if other.hit is not None]
    word = "right" if prompt.hit else f"you expected: {guess}"
    return Verdict(prompt.hit, f"Prediction {name}: {word}. Answer: {answer}. Score {sum(hits)}/{len(hits)}.")
