"""What an exercise consists of: trials, a solution, and foreseen mistakes with a hint for each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Exercise:
    """An exercise: `cases()` returns fresh arguments for each trial, `mistakes` pairs wrong solutions with hints.

    An answer is tried on `cases` and compared with `solution`. Where it differs, the hint is that of the first mistake
    with the same wrong outcome. `praise` says what the right answer has shown.
    """

    cases: Callable[[], list[tuple]]
    solution: Callable[..., Any]
    praise: str
    mistakes: tuple[tuple[Callable[..., Any], str], ...]
