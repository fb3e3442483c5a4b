"""The form of the notebooks: what every one of them holds, and what its saved outputs must not."""

import ast
import importlib
import importlib.util
import inspect
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType, SimpleNamespace

import nbformat
import pytest
from nbformat import NotebookNode

from maelib.course import check
from maelib.course.exercises import EXERCISES

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"
LESSONS = sorted(FOLDER.glob("*.ipynb"))
SOLUTIONS = sorted(FOLDER.glob("solutions/*.ipynb"))
READ = {path: nbformat.read(path, as_version=4) for path in LESSONS + SOLUTIONS}

SECTIONS = ["What you will be able to do", "Predict", "Trap lab", "Exercises", "Key points", "Next", "References"]
HEAD = ["Before you start", "Run time"]
TAGS = {"setup", "widget", "nbval-ignore-output"}
PROSE_LIMIT = 90  # words a cell: "about 80"
SERIES = 9  # lessons, 00 to 08
COURSE_SECONDS = 20 * 60

each = pytest.mark.parametrize("path", READ, ids=lambda path: str(path.relative_to(FOLDER)))
each_lesson = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
MAKEFILE = dict(re.findall(r"^(\w+) *:= (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE))
NBVAL_OPTIONS = MAKEFILE["NBVAL"].split()[:-1]  # but for the folder

whole_series = pytest.mark.skipif(len(LESSONS) < SERIES, reason="some lessons are to come")


def load_script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_build() -> ModuleType:
    return load_script("build")


def code_cells(path: Path) -> list[NotebookNode]:
    return [cell for cell in READ[path].cells if cell.cell_type == "code"]


def markdown(path: Path) -> list[str]:
    return [cell.source for cell in READ[path].cells if cell.cell_type == "markdown"]


def outputs(path: Path) -> list[NotebookNode]:
    return [output for cell in code_cells(path) for output in cell.outputs]


def text_of(cell: NotebookNode) -> str:
    return "".join(out.get("text", "") or out.get("data", {}).get("text/plain", "") for out in cell.outputs)


def sections(path: Path) -> dict[str, str]:
    """The text under each `##` heading of a notebook."""
    _, *parts = re.split(r"^## ", "\n".join(markdown(path)), flags=re.MULTILINE)
    return {heading: text for heading, _, text in (part.partition("\n") for part in parts)}


def tagged(path: Path, tag: str) -> list[int]:
    """Which of a notebook's code cells carry a tag."""
    return [i for i, cell in enumerate(code_cells(path)) if tag in cell.metadata.get("tags", [])]


def calls(cell: NotebookNode, function: str) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == function
    ]


def checked(path: Path) -> dict[str, tuple[NotebookNode, NotebookNode]]:
    """For each exercise of a notebook, the cell with the answer and the cell after it that checks it."""
    cells = code_cells(path)
    return {
        call.args[0].value: (before, cell)
        for before, cell in itertools.pairwise(cells)
        for call in calls(cell, "check")
    }


def run(path: Path, name: str) -> object:
    """The answer to an exercise, as the notebook's imports and the answer's own cell make it."""
    answer, check_cell = checked(path)[name]
    trees = [ast.parse(cell.source) for cell in code_cells(path) if "setup" not in cell.metadata.get("tags", [])]
    imports = [node for tree in trees for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    namespace: dict[str, object] = {}
    exec(compile(ast.Module(imports, []), path.name, "exec"), namespace)
    exec(compile(answer.source, path.name, "exec"), namespace)
    return namespace[calls(check_cell, "check")[0].args[1].id]


# ------------------------------------------------------------------------------------------------------------- cells


@each
def test_a_notebook_is_as_the_build_leaves_it(path: Path) -> None:
    fresh = nbformat.read(path, as_version=4)
    assert load_build().normalise(fresh, path) == READ[path], "run `make notebooks`"
    nbformat.validate(fresh)


@each
def test_the_setup_cell_comes_first_and_is_the_same_everywhere(path: Path) -> None:
    assert tagged(path, "setup") == [0]
    assert code_cells(path)[0].source == load_build().setup_cell()


@each
def test_a_badge_stands_in_a_lesson_as_soon_as_its_link_leads_somewhere(path: Path) -> None:
    address = load_build().address()
    badges = [line for line in "\n".join(markdown(path)).splitlines() if "colab.research" in line]
    assert len(badges) == bool(address and path in LESSONS)
    for badge in badges:
        assert badge in markdown(path)[0]
        assert badge.startswith("[![Open in Colab](")
        assert f"/github/{address.removeprefix('https://github.com/')}/blob/main/notebooks/{path.name})" in badge


@each
def test_tags_mean_something(path: Path) -> None:
    tags = {tag for cell in READ[path].cells for tag in cell.metadata.get("tags", [])}
    assert {tag for tag in tags if not tag.startswith("maelib.")} <= TAGS


def bare(tree: ast.AST) -> str:
    """A syntax tree as text, docstrings left out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree)


DEFINITIONS = [
    (path, cell, tag)
    for path in LESSONS
    for cell in code_cells(path)
    for tag in cell.metadata.get("tags", [])
    if tag.startswith("maelib.")
]


@pytest.mark.parametrize(
    ("path", "cell", "tag"), DEFINITIONS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_definition_tagged_with_a_name_of_the_library_is_the_librarys(
    path: Path, cell: NotebookNode, tag: str
) -> None:
    module, _, name = tag.rpartition(".")
    library = ast.parse(textwrap.dedent(inspect.getsource(getattr(importlib.import_module(module), name)))).body[0]
    own = [node for node in ast.parse(cell.source).body if getattr(node, "name", None) == name]
    assert len(own) == 1, f"the cell tagged {tag} does not define {name}"
    assert bare(own[0]) == bare(library)


@each
def test_cells_are_short(path: Path) -> None:
    lengths = [len(cell.source.splitlines()) for cell in code_cells(path)]
    assert max(lengths) <= 25
    assert statistics.median(lengths) <= 8
    for source in markdown(path):
        prose = [line for line in source.splitlines() if not line.lstrip().startswith(("|", "![", "[!["))]
        words = re.findall(r"\w[\w'.-]*", re.sub(r"\]\([^)]*\)", "]", "\n".join(prose)))
        assert len(words) <= PROSE_LIMIT or "## References" in source, source


@each
def test_cells_hold_python_alone(path: Path) -> None:
    for cell in code_cells(path):
        ast.parse(cell.source)  # a magic, or a shell command that fails, would pass nbval unseen
        assert not re.search(r";\s*(#.*)?$", cell.source), (
            "a trailing ; hides output from the reader and not from nbval"
        )
        assert "get_ipython" not in cell.source


@each
def test_prose_does_not_call_things_easy(path: Path) -> None:
    assert not re.findall(r"\b(?:simply|just|obviously)\b", "\n".join(markdown(path)), re.IGNORECASE)


@each_lesson
def test_a_lesson_has_its_sections_in_order(path: Path) -> None:
    text = "\n".join(markdown(path))
    assert re.match(rf"# {path.stem[:2]}\. \w", text), "the title starts with the number of the file"
    headings = list(sections(path))
    wanted = [s for s in SECTIONS if s != "Predict"]
    places = [next((i for i, heading in enumerate(headings) if heading.startswith(s)), -1) for s in wanted]
    assert -1 not in places, f"missing: {[s for s, place in zip(wanted, places, strict=True) if place < 0]}"
    assert places == sorted(places)
    assert all(f"**{words}" in text for words in HEAD)
    assert len(load_build().RUN_TIME.findall(text)) == 1


@each_lesson
def test_a_lesson_says_what_it_is_for_and_where_it_leads(path: Path) -> None:
    parts = sections(path)
    assert 3 <= len(re.findall(r"^- ", parts["What you will be able to do"], re.MULTILINE)) <= 5
    number = int(path.stem[:2])
    assert number == SERIES - 1 or re.search(rf"\b{number + 1:02}\b", parts["Next"]), "name the next notebook"
    references = re.findall(r"^- .+", parts["References"], re.MULTILINE)
    dated = [reference for reference in references if re.search(r"\b(19|20)\d\d\b", reference)]
    assert len(dated) >= max(1, len(references) - 1), "papers have a year; one data sheet or repository may do without"


def test_the_course_takes_twenty_minutes_at_most() -> None:
    seconds = {path.stem: load_build().stated_seconds(path) for path in LESSONS}
    assert all(seconds.values())
    assert sum(seconds.values()) <= COURSE_SECONDS, seconds


@each_lesson
def test_a_lesson_asks_for_predictions_and_reveals_each(path: Path) -> None:
    number = path.stem[:2]
    asked = [call.args[0].value for cell in code_cells(path) for call in calls(cell, "predict")]
    answered = [call.args[0].value for cell in code_cells(path) for call in calls(cell, "reveal")]
    assert asked == answered == sorted(set(asked))
    assert len(asked) >= 2
    assert all(name.startswith(f"{number}.") for name in asked)


@each_lesson
def test_an_answer_comes_after_its_question_and_is_computed(path: Path) -> None:
    asked = {call.args[0].value: i for i, cell in enumerate(code_cells(path)) for call in calls(cell, "predict")}
    for i, cell in enumerate(code_cells(path)):
        for call in calls(cell, "reveal"):
            assert i > asked[call.args[0].value], "a guess is made before the answer is shown"
            assert not isinstance(call.args[1], ast.Constant), "take the answer from the result"


@each_lesson
def test_a_lesson_has_a_widget_beside_a_figure_that_needs_no_kernel(path: Path) -> None:
    (widget,) = tagged(path, "widget")
    pictures = [
        i for i, cell in enumerate(code_cells(path)) if any("image/png" in out.get("data", {}) for out in cell.outputs)
    ]
    assert any(abs(i - widget) <= 3 for i in pictures), "show the same as a figure, a few cells off at most"


@each
def test_links_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\((?!https?:|#|attachment:)([^)\s]+)\)", "\n".join(markdown(path))):
        target = (path.parent / link.split("#")[0]).resolve()
        assert target.exists(), link
        assert target.is_relative_to(ROOT), f"{link} leaves the repository"


@each
def test_pictures_have_alt_text(path: Path) -> None:
    for output in outputs(path):
        if "image/png" in output.get("data", {}):
            alt = output.metadata.get("image/png", {}).get("alt", "")
            assert len(alt.split()) >= 4, f"show figures through maelib.course.figure: {output.data.get('text/plain')}"
            assert output.data["text/plain"] == alt
    assert "![](" not in "\n".join(markdown(path))


# --------------------------------------------------------------------------------------------------------- exercises


@each_lesson
def test_a_lesson_and_its_solutions_hold_the_same_exercises(path: Path) -> None:
    names = [name for name in EXERCISES if name.startswith(f"{path.stem[:2]}.")]
    assert len(names) >= 3
    assert list(checked(path)) == names
    assert list(checked(FOLDER / "solutions" / path.name)) == names


@each_lesson
def test_stubs_are_not_passed_and_say_so_in_one_line(path: Path) -> None:
    for name, (stub, check_cell) in checked(path).items():
        verdict = check(name, run(path, name))
        assert not verdict.passed
        assert text_of(check_cell) == verdict.text == f"Exercise {name}: not attempted yet (nothing is returned)."
        assert not stub.outputs


@each_lesson
def test_solutions_pass_and_say_so(path: Path) -> None:
    solved = FOLDER / "solutions" / path.name
    for name, (_, check_cell) in checked(solved).items():
        verdict = check(name, run(solved, name))
        assert verdict.passed, verdict
        assert text_of(check_cell) == verdict.text


def test_every_exercise_stands_in_a_notebook() -> None:
    assert sorted(EXERCISES) == sorted(name for path in LESSONS for name in checked(path))


@whole_series
def test_the_series_holds_thirty_exercises_and_fifteen_definitions_of_the_library() -> None:
    assert [path.stem[:2] for path in LESSONS] == [f"{number:02}" for number in range(SERIES)]
    assert [path.name for path in SOLUTIONS] == [path.name for path in LESSONS]
    assert len(EXERCISES) >= 30
    assert len({tag for _, _, tag in DEFINITIONS}) >= 15


# ----------------------------------------------------------------------------------------------------------- outputs


@each
def test_it_was_executed_from_top_to_bottom(path: Path) -> None:
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))


@each
def test_outputs_hold_no_error_no_stderr_no_widget_and_no_vector_graphics(path: Path) -> None:
    for output in outputs(path):
        assert output.output_type != "error"
        assert output.get("name") != "stderr"
        assert set(output.get("data", {})) <= {"text/plain", "image/png"}
    assert "widgets" not in READ[path].metadata


@each
def test_nothing_saved_names_a_machine_or_an_address_in_memory(path: Path) -> None:
    texts = [text_of(cell) for cell in code_cells(path)]
    assert not re.search(r"(?<![\w.])/(home|root|Users|tmp|work|usr)/|[A-Z]:\\|\b0x[0-9a-f]{6,}", "\n".join(texts))


@each
def test_numbers_are_printed_with_three_digits(path: Path) -> None:
    for cell in code_cells(path):
        for number in re.findall(r"\d+\.\d+", text_of(cell)):
            assert len(number.replace(".", "").lstrip("0")) <= 3 or re.fullmatch(r"0\d\.\d", number), number


@each
def test_ignored_outputs_are_followed_by_a_cell_that_asserts(path: Path) -> None:
    cells = code_cells(path)
    for cell, after in zip(cells, [*cells[1:], None], strict=True):
        if "nbval-ignore-output" in cell.metadata.get("tags", []):
            assert after is not None
            assert "assert" in after.source
            assert "nbval-ignore-output" not in after.metadata.get("tags", [])


@each
def test_a_notebook_is_light(path: Path) -> None:
    assert path.stat().st_size < 3e6, "draw figures smaller: git keeps every version of them"
    json.loads(path.read_text(encoding="utf-8"))


def nbval(folder: Path, *options: str) -> str:
    """What `make test`'s way of running notebooks prints for those of a folder."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-v",
        "-p",
        "nbval_settings",
        "--nbval",
        "--nbval-current-env",
        str(folder),
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "tools"), str(ROOT)]),
        "OMP_NUM_THREADS": "1",
    }
    run = subprocess.run(
        [*command, str(folder), *options], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    return run.stdout


def write_notebook(path: Path, cells: dict[str, str], head: str = "") -> None:
    """A notebook with a head and code cells, each with the text that it is said to have printed."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(head)])
    for source, printed in cells.items():
        said = [nbformat.v4.new_output("stream", name="stdout", text=printed)] if printed else []
        notebook.cells.append(nbformat.v4.new_code_cell(source, outputs=said, execution_count=1))
    nbformat.write(notebook, path)


def test_nbval_compares_what_is_printed_and_leaves_stderr_out(tmp_path: Path) -> None:
    cells = {"import sys; print('!', file=sys.stderr)": "", "print(1)": "1\n", "print(2)": "1\n"}
    write_notebook(tmp_path / "three.ipynb", cells)
    printed = nbval(tmp_path)
    assert "1 failed, 2 passed" in printed, printed
    assert "Cell 2: Cell outputs differ" in printed


def test_nbval_runs_a_notebook_on_one_worker_and_its_kernel_on_one_thread(tmp_path: Path) -> None:
    write_notebook(tmp_path / "a.ipynb", {"import torch; print(torch.get_num_threads())": "1\n", "print(2)": "2\n"})
    write_notebook(tmp_path / "b.ipynb", {"print(1)": "1\n", "print(2)": "2\n", "print(3)": "3\n"})
    printed = nbval(tmp_path, "-n", "2", *NBVAL_OPTIONS)
    assert "5 passed" in printed, printed
    done = re.findall(r"\[(gw\d)\].* PASSED (\w)[.:]", printed)
    workers = {name: {worker for worker, other in done if other == name} for name in "ab"}
    assert sorted(map(len, workers.values())) == [1, 1], printed
    assert workers["a"] != workers["b"]


def test_long_notebooks_come_first_and_their_cells_stay_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "tools")
    for name, seconds in {"a": 5, "b": 70, "c": 300}.items():
        write_notebook(tmp_path / f"{name}.ipynb", {}, f"{seconds} seconds on 2 cores")
    write_notebook(tmp_path / "solutions.ipynb", {})
    items = [SimpleNamespace(path=path, cell=cell) for path in sorted(tmp_path.iterdir()) for cell in (1, 2)]
    load_script("nbval_settings").pytest_collection_modifyitems(items)
    order = [(item.path.stem, item.cell) for item in items]
    assert order == [(name, cell) for name in ("c", "b", "a", "solutions") for cell in (1, 2)]


def test_make_gives_each_worker_and_its_kernels_one_thread() -> None:
    dry = subprocess.run(["make", "-n", "test"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.search(
        r"^OMP_NUM_THREADS=1 PYTHONPATH=tools \S+pytest -n \d+ -p nbval_settings --nbval .* notebooks$",
        dry,
        re.MULTILINE,
    )
