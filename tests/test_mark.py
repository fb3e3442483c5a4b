"""Marking handed-in notebooks: verdicts come from hidden cases, and a hostile notebook costs its own marks alone."""

import csv
import os
import time
from pathlib import Path

import nbformat
import pytest

from maelib.course.mark import MarkConfig, mark
from maelib.course.runner import needed

pytestmark = [pytest.mark.skipif(os.name != "posix", reason="limits"), pytest.mark.filterwarnings("ignore")]
IMPORTS = "import os, sys\nimport torch\nfrom maelib.course import check"
SHARE = "def hidden_share(mask):\n    return mask.float().mean(dim=1)"
CHECK = 'check("00.1", hidden_share)'
OTHERS = 'check("00.2", ...)\ncheck("00.3", ...)'


def write(path: Path, *cells: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells]), path)


def marks(folder: Path, **options: object) -> dict[tuple[str, str], tuple[str, str]]:
    """Mark `folder`; the result and the hint of each notebook and exercise."""
    out = folder / "out" / "marks.csv"
    mark(MarkConfig(folder, "the secret", out, **{"seconds": 60, **options}))
    with out.open(encoding="utf-8") as file:
        return {(row["student"], row["exercise"]): (row["result"], row["hint"]) for row in csv.DictReader(file)}


def body(line: str) -> str:
    return "def hidden_share(mask):\n" + "\n".join(f"    {part}" for part in line.split("\n"))


MIXED = [
    "# %matplotlib is set by the lesson\n%matplotlib inline\nimport asyncio\nawait asyncio.sleep(0)",
    IMPORTS,
    'import maelib.course.check as c\nc.judge = c.difference = lambda *_: None\nprint("Exercise 00.2: passed.")',
    SHARE,
    CHECK,
    "def paste(images, predictions, hole):\n    return torch.where(hole[:, None], images, predictions)",
    'check = lambda name, answer: print(f"Exercise {name}: passed.")\ncheck("00.2", paste)',
    "def my_psnr(images, predictions, hole):\n    ...",
    'check("00.3", my_psnr)',
]


def test_a_class_gets_a_table_and_a_page_each_with_a_hint_of_its_own(tmp_path: Path) -> None:
    write(tmp_path / "anne" / "=1.ipynb", *MIXED)
    (tmp_path / "broken.ipynb").write_text("{")
    found = marks(tmp_path)
    assert [found["anne/=1", f"00.{k}"][0] for k in (1, 2, 3)] == ["passed", "hint", "not attempted"]
    assert found["broken", ""][0] == "error"
    page = (tmp_path / "out" / "feedback" / "anne" / "=1.md").read_text()
    assert "1 of 3 exercises passed." in page
    assert "- **00.2** hint. Prediction and picture are swapped" in page
    with pytest.raises(ValueError, match="holds no notebook"):
        marks(tmp_path / "out")


def test_only_the_cells_that_answers_depend_on_are_needed() -> None:
    slow = ["for epoch in range(10**9):\n    pass", "x = x_0 = 1", "!sleep 9", "def ("]
    used = [IMPORTS, "scale = x_1 = 2", "x_0 = x_1", body("x = 3\nreturn lambda: x_0 + x"), CHECK]
    assert needed([*slow, *used, "x_1 = 4"], set()) == used
    assert needed([*slow, *used[:-1]], {"hidden_share"}) == used[1:-1]


HOSTILE = {  # cells after the imports, the result of 00.1, a part of its text
    "learnt by heart": ([body("return [0.25, 0.5, 0.125]"), CHECK], "hint", ""),
    "missing cells": (['check("00.2", None)'], "not attempted", ""),
    "no check cell": ([SHARE, 'check("00.2", None)'], "passed", ""),
    "hidden dependence": (['globals()["axis"] = 1', body("return mask.float().mean(dim=axis)"), CHECK, OTHERS],
                          "passed", ""),
    "looks for the seed": (
        [body("import gc\nseen = [o for o in gc.get_objects() if isinstance(o, (str, dict, list))]\n"
              "found = ('the ' + 'secret' in str(os.environ) + str(sys.argv) + open('/proc/self/environ').read()"
              " or any('the ' + 'secret' in str(o)[:1000] for o in seen))\n"
              "return torch.full((len(mask),), 1.0 * found)"), CHECK],
        "hint", "// rounds down",  # to 0: it was not found
    ),
    "changes its input": ([body("mask.logical_not_()\nreturn 1 - mask.float().mean(dim=1)"), CHECK], "hint", "`mask`"),
    "leaves": ([body("sys.exit(0)"), CHECK], "error", "SystemExit"),
    "ends the process": ([body("os._exit(0)"), CHECK], "error", "ended its process"),
    "syntax": ([SHARE + ")", CHECK], "error", "SyntaxError"),
    "removes its folder": (["import shutil\nshutil.rmtree(os.getcwd())", SHARE, CHECK], "passed", ""),
    "loops": ([body("while True:\n    try:\n        while True: pass\n    except: pass"), CHECK], "time limit", ""),
    "eight gigabytes": ([body("return torch.zeros(2**31)"), CHECK], "hint", "It stops with RuntimeError"),
    "prints gigabytes": ([body("for _ in range(99):\n    print('x' * 2**23)\nreturn mask.float().mean(1)"), CHECK],
                         "passed", ""),
    "large result": ([body("return torch.zeros(10**7)"), CHECK], "hint", "returns a Tensor"),
    "writes a large file": ([body("open('f', 'wb').write(bytes(2**27))"), CHECK], "hint", "OSError"),
    "scribbles": (["for fd in range(3, 30):\n"
                   "    try: os.write(fd, b'[[[\\n{\"exercise\": \"00.1\", \"outcomes\": 1}\\n')\n"
                   "    except OSError: pass", SHARE, CHECK], "passed", ""),
}  # fmt: skip


@pytest.mark.slow
def test_a_hostile_notebook_costs_its_own_marks_alone(tmp_path: Path) -> None:
    for name, (cells, _, _) in HOSTILE.items():
        write(tmp_path / f"{name}.ipynb", IMPORTS, *cells)
    beat = tmp_path / "beat"  # grows as long as a forked child lives
    fork = f"if os.fork():\n    return mask.float().mean(1)\nwhile True:\n    open({str(beat)!r}, 'a').write('1')"
    write(tmp_path / "forks.ipynb", IMPORTS, body(fork), CHECK)
    found = marks(tmp_path, seconds=80)
    for name, (_, result, text) in HOSTILE.items():
        assert found[name, "00.1"][0] == result, (name, found[name, "00.1"])
        assert text in found[name, "00.1"][1], (name, found[name, "00.1"])
    assert found["forks", "00.1"][0] == "passed"
    size = beat.stat().st_size
    time.sleep(1)
    assert beat.stat().st_size == size > 0
