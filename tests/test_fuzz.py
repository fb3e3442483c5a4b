"""A file that once broke a reader breaks it no more, and `make fuzz` finds planted faults."""

import os
import pickle
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from fuzz import fault, peak
from fuzz_targets import TARGETS, Target
from hypothesis import strategies as st

ROOT = Path(__file__).parents[1]
CORPUS = Path(__file__).parent / "corpus"
KEPT = sorted(path for path in CORPUS.rglob("*") if path.is_file())


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.relative_to(CORPUS).as_posix())
def test_a_file_that_broke_a_reader_causes_the_promised_error_or_none(path, tmp_path):
    assert fault(TARGETS[path.parent.name], path.read_bytes(), tmp_path) is None


@pytest.mark.parametrize("name", TARGETS)
def test_the_files_that_fuzzing_starts_from_break_no_reader_and_one_is_good(name, tmp_path):
    target = TARGETS[name]
    assert {fault(target, data, tmp_path) for data in target.seeds} == {None}
    assert None in {fault(replace(target, promised=()), data, tmp_path) for data in target.seeds}


def test_the_corpus_stays_small():
    assert KEPT
    assert sum(path.stat().st_size for path in KEPT) < 200_000


def throw(error, path):
    raise error


def unpickle(path):
    with suppress(Exception):
        pickle.loads(path.read_bytes())


@pytest.mark.parametrize(
    ("read", "wrong"),
    [
        (partial(throw, KeyError("file.bin")), "raised KeyError in test_fuzz.throw"),
        (partial(throw, ValueError("bad file")), "raised ValueError in test_fuzz.throw without the file's name"),
        (partial(throw, BaseException("file.bin")), "raised BaseException in test_fuzz.throw"),  # as Rust's panics
        (unpickle, "caused pickle.find_class"),
        (lambda path: path.with_suffix(".txt").touch(), "caused open"),
        (lambda path: time.sleep(9), "took more than 3 s in test_fuzz.<lambda>"),
        (lambda path: bytearray(int(peak() * 1e6) + 200_000_000), "took more than 100 MB"),
    ],
)
def test_a_broken_promise_is_noticed(read, wrong, tmp_path):
    data = b"cos\ngetcwd\n(tR."  # a pickle that calls a function
    target = Target(read, (ValueError,), "file.bin", (data,), st.just(data))
    # on a busy machine, memory takes seconds to fill
    assert fault(target, data, tmp_path, seconds=3 if "3 s" in wrong else 60, memory=100) == wrong


PLANTED = """
    from fuzz_targets import Target, edited
    import os

    def break_promise(path):
        assert len(path.read_bytes()) <= 30

    def die(path):
        if len(path.read_bytes()) > 30:
            os.abort()

    SEEDS = (b"good", b"bad" * 5)
    MORE = ((ValueError,), "file.bin", SEEDS, edited(SEEDS))
    TARGETS = {"break_promise": Target(break_promise, *MORE), "die": Target(die, *MORE)}
"""


@pytest.mark.slow
def test_planted_faults_are_reported_and_kept(tmp_path):
    (tmp_path / "planted.py").write_text(textwrap.dedent(PLANTED))
    words = ["--seconds", "30", "--targets", "planted", "--out", tmp_path / "fuzz.md", "--corpus", tmp_path / "corpus"]
    places = os.pathsep.join(map(str, (ROOT, ROOT / "benchmarks", tmp_path)))
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "fuzz.py", *words],
        env={**os.environ, "PYTHONPATH": places}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    report = (tmp_path / "fuzz.md").read_text()
    assert "- break_promise: raised AssertionError in planted.break_promise" in report
    assert "- die: ended the process" in report
    kept = {folder.name: [path.read_bytes() for path in folder.iterdir()] for folder in (tmp_path / "corpus").iterdir()}
    assert set(kept) == {"break_promise", "die"}
    assert min(map(len, kept["break_promise"])) == 31, "shrunk as far as it goes"
