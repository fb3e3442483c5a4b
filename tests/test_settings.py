"""What JSON tells comes back as the dataclass it was, and anything else is refused with its name."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maelib.config_io import from_json, read_json


@dataclass(frozen=True)
class Inner:
    share: float = 0.5
    on: bool = True


@dataclass(frozen=True)
class Outer:
    count: int
    inner: Inner = Inner()
    folder: Path | None = None
    range: tuple[float, float] = (0.0, 1.0)
    names: tuple[str, ...] = ()
    kind: Literal["a", "b"] = "a"

    def __post_init__(self):
        if self.count < 0:
            raise ValueError(f"count {self.count} is negative; use 0 or more")


FINITE = st.floats(allow_nan=False, allow_infinity=False)


@given(
    st.builds(
        Outer,
        st.integers(0, 2**63 - 1),
        st.builds(Inner, FINITE, st.booleans()),
        st.none() | st.sampled_from([Path("a/b"), Path("c")]),
        st.tuples(FINITE, FINITE),
        st.lists(st.text()).map(tuple),
        st.sampled_from("ab"),
    )
)
def test_what_was_written_comes_back(outer):
    assert from_json(Outer, read_json(json.dumps(asdict(outer), default=str)), "settings") == outer


def test_entries_with_a_default_may_be_missing_and_whole_numbers_serve_as_floats():
    assert from_json(Outer, {"count": 1, "range": [0, 1]}, "settings") == Outer(1)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"count": "1"}, "count is '1', and should be int"),
        ({"count": True}, "count is True, and should be int"),
        ({"count": 1.0}, "count is 1.0, and should be int"),
        ({"count": 10**5000}, "count is a number of astronomic size, and should be int"),
        ({"count": -1}, "count -1 is negative; use 0 or more"),
        ({}, "settings lacks count; add"),
        ({"count": 1, "inner": {"share": math.nan}}, "share is nan, and should be float"),
        ({"count": 1, "inner": {"share": None}}, "share is None, and should be float"),
        ({"count": 1, "inner": {"on": 1}}, "on is 1, and should be bool"),
        ({"count": 1, "inner": 3}, "inner is 3, and should be Inner"),
        ({"count": 1, "folder": 3}, "folder is 3, and should be Path"),
        ({"count": 1, "range": [0, 1, 2]}, r"range is \[0, 1, 2\], and should be tuple\[float, float\]"),
        ({"count": 1, "names": "ab"}, "names is 'ab', and should be tuple"),
        ({"count": 1, "kind": "c"}, "kind is 'c', and should be Literal"),
        ({"count": 1, "colour": 2}, r"settings has entries \['colour'\], which this version does not know"),
        ([], r"settings is \[\], and should be Outer"),
        ("x" * 999, r"settings is 'x{59}\.\.\., and"),
    ],
)
def test_anything_else_is_refused_with_its_name(told, message):
    with pytest.raises(ValueError, match=message):
        from_json(Outer, told, "settings")


@pytest.mark.parametrize("text", ["", "{", b"\xff", "[" * 100_000, "9" * 5000])
def test_what_is_no_json_is_said_to_be_none(text):
    with pytest.raises(ValueError, match=r"no JSON \(.+\)"):
        read_json(text)
