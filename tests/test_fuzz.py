"""A file that once broke a reader breaks it no more, and `make fuzz` finds planted faults."""

import os
import subprocess
import sys
import textwrap
from dataclasses import replace
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


def wrong_error(path):
    if path.read_bytes():
        raise KeyError(path.name)


def unnamed(path):
    raise ValueError("bad file")


def unpickle(path):
    import pickle

    pickle.loads(path.read_bytes())


def write(path):
    path.with_suffix(".txt").touch()


def hang(path):
    while path:
        pass


def hoard(path):
    bytearray(int(peak() * 1e6) + 200_000_000)


def panic(path):
    raise BaseException("as Rust's panics")


def swallow(path):
    try:
        unpickle(path)
    except Exception:
        raise ValueError(path.name) from None


@pytest.mark.parametrize(
    ("read", "data", "wrong"),
    [
        (wrong_error, b"", None),
        (wrong_error, b"x", "raised KeyError in test_fuzz.wrong_error"),
        (unnamed, b"x", "raised ValueError in test_fuzz.unnamed without the file's name"),
        (unpickle, b"cos\ngetcwd\n(tR.", "caused pickle.find_class"),
        (swallow, b"cos\nno_such_function\n(tR.", "caused pickle.find_class"),
        (write, b"", "caused open"),
        (hang, b"", "took more than 2 s in test_fuzz.hang"),
        (hoard, b"", "took more than 100 MB"),
        (panic, b"", "raised BaseException in test_fuzz.panic"),
    ],
)
def test_a_broken_promise_is_noticed(read, data, wrong, tmp_path):
    target = Target(read, (ValueError,), "file.bin", (data,), st.just(data))
    assert fault(target, data, tmp_path, seconds=2 if read is hang else None, memory=100) == wrong


PLANTED = """
    from fuzz_targets import Target, edited
    import os

    def break_promise(path):
        if len(path.read_bytes()) > 30:
            raise KeyError(path.name)

    def die(path):
        if len(path.read_bytes()) > 30:
            os.abort()

    SEEDS = (b"good", b"bad" * 5)
    TARGETS = {
        read.__name__: Target(read, (ValueError,), "file.bin", SEEDS, edited(SEEDS)) for read in (break_promise, die)
    }
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
    assert "- break_promise: raised KeyError in planted.break_promise" in report
    assert "- die: ended the process" in report
    kept = {folder.name: [path.read_bytes() for path in folder.iterdir()] for folder in (tmp_path / "corpus").iterdir()}
    assert set(kept) == {"break_promise", "die"}
    assert min(map(len, kept["break_promise"])) == 31, "shrunk as far as it goes"
