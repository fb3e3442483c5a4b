"""An exercise: what it asks, and the mistakes that have a hint of their own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Exercise:
    """An exercise: `cases()` makes the arguments of each trial anew, `mistakes` pairs wrong solutions with hints.

    An answer is tried on `cases` and compared with `solution`; where it differs, the first of the `mistakes` that gives
    the same wrong outcome gives the hint. `praise` says what the right answer has shown.
    """

    cases: Callable[[], list[tuple]]
    solution: Callable[..., Any]
    praise: str
    mistakes: tuple[tuple[Callable[..., Any], str], ...]
