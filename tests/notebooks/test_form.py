"""The form of the notebooks: what each of them holds, and what its saved outputs must not hold."""

import ast
import importlib
import inspect
import itertools
import os
import re
import statistics
import subprocess
import sys
import textwrap
from pathlib import Path

import build
import nbformat
import pytest
from bs4 import BeautifulSoup
from nbconvert import HTMLExporter
from nbformat import NotebookNode

from maelib.course import check
from maelib.course.exercises import EXERCISES

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "notebooks"
TEACHING = ROOT / "docs" / "teaching"
LESSONS = sorted(FOLDER.glob("*.ipynb"))
SOLUTIONS = sorted(FOLDER.glob("solutions/*.ipynb"))
READ = {path: nbformat.read(path, as_version=4) for path in LESSONS + SOLUTIONS}
CODE = {path: [cell for cell in notebook.cells if cell.cell_type == "code"] for path, notebook in READ.items()}
PROSE = {path: [cell.source for cell in book.cells if cell.cell_type == "markdown"] for path, book in READ.items()}

SECTIONS = ["What you will be able to do", "Trap lab", "Exercises", "Key points", "Next", "References"]
TAGS = {"setup", "widget", "nbval-ignore-output"}
LONGEST_PROSE = 90  # words a cell
NUMBERS = [f"{number:02}" for number in range(10)]
COURSE_SECONDS = 20 * 60
MACHINE = r"(?<![\w.])/(home|root|Users|tmp|work|usr)/|[A-Z]:\\|\b0x[0-9a-f]{6,}"

each = pytest.mark.parametrize("path", READ, ids=lambda path: str(path.relative_to(FOLDER)))
each_lesson = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)


def tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def outputs(path: Path) -> list[NotebookNode]:
    return [output for cell in CODE[path] for output in cell.outputs]


def printed(cell: NotebookNode) -> str:
    return "".join(out.get("text", "") or out.get("data", {}).get("text/plain", "") for out in cell.outputs)


def sections(path: Path) -> dict[str, str]:
    """The text under each `##` heading of a notebook."""
    _, *parts = re.split(r"^## ", "\n".join(PROSE[path]), flags=re.MULTILINE)
    return {heading: text for heading, _, text in (part.partition("\n") for part in parts)}


def calls(cell: NotebookNode, function: str) -> list[ast.Call]:
    nodes = ast.walk(ast.parse(cell.source))
    return [node for node in nodes if isinstance(node, ast.Call) and getattr(node.func, "id", None) == function]


def checked(path: Path) -> dict[str, tuple[NotebookNode, NotebookNode]]:
    """For each exercise of a notebook, the cell with the answer and the next cell, which checks it."""
    return {
        call.args[0].value: (before, cell)
        for before, cell in itertools.pairwise(CODE[path])
        for call in calls(cell, "check")
    }


def run(path: Path, name: str) -> object:
    """The answer to an exercise, made by the notebook's imports and the answer's own cell."""
    answer, check_cell = checked(path)[name]
    trees = [ast.parse(cell.source) for cell in CODE[path] if "setup" not in tags(cell)]
    imports = [node for tree in trees for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    namespace: dict[str, object] = {}
    exec(compile(ast.Module(imports, []), path.name, "exec"), namespace)
    exec(compile(answer.source, path.name, "exec"), namespace)
    return namespace[calls(check_cell, "check")[0].args[1].id]


def test_the_course_is_complete_and_takes_twenty_minutes_at_most() -> None:
    assert [path.stem[:2] for path in LESSONS] == NUMBERS
    assert [path.name for path in SOLUTIONS] == [path.name for path in LESSONS]
    assert len(EXERCISES) >= 30
    assert sorted(EXERCISES) == sorted(name for path in LESSONS for name in checked(path))
    assert len({tag for _, _, tag in DEFINITIONS}) >= 15
    assert list(build.costs()) == [path.stem for path in LESSONS]
    assert sum(cost["seconds"] for cost in build.costs().values()) <= COURSE_SECONDS


def test_the_readme_states_what_the_lessons_cost() -> None:
    """A lesson's own head is written by the build, and compared with it below."""
    table = (ROOT / "docs" / "teachers.md").read_text()
    assert build.with_costs(table) == table, "run `make notebooks`"
    rows = [f"| {' | '.join(build.stated(**cost))} |" for cost in build.costs().values()]
    assert re.findall(r"^\| \d\d [^|]*\|[^|]*(\| \d[^|]*\| [\d.]+ GB \|)", table, re.MULTILINE) == rows


# ------------------------------------------------------------------------------------------------------------- cells


@each
def test_a_notebook_is_as_the_build_leaves_it(path: Path) -> None:
    """This covers the setup cell, which is the same everywhere, the badge, the run time and the metadata."""
    fresh = nbformat.read(path, as_version=4)
    assert build.normalise(fresh, path) == READ[path], "run `make notebooks`"
    nbformat.validate(fresh)
    assert [i for i, cell in enumerate(CODE[path]) if "setup" in tags(cell)] == [0]
    assert path.stat().st_size < 3e6, "draw figures smaller: git keeps every version of them"


@each
def test_tags_have_a_meaning(path: Path) -> None:
    assert {tag for cell in CODE[path] for tag in tags(cell) if not tag.startswith("maelib.")} <= TAGS
    assert not any(tags(cell) for cell in READ[path].cells if cell.cell_type == "markdown")


def without_docstrings(tree: ast.AST) -> str:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree)


DEFINITIONS = [
    (path, cell, tag) for path in LESSONS for cell in CODE[path] for tag in tags(cell) if tag.startswith("maelib.")
]


@pytest.mark.parametrize(("path", "cell", "tag"), DEFINITIONS, ids=[f"{p.stem}-{tag}" for p, _, tag in DEFINITIONS])
def test_a_cell_tagged_with_a_name_of_the_library_defines_it_as_the_library_does(path, cell, tag) -> None:
    module, _, name = tag.rpartition(".")
    library = ast.parse(textwrap.dedent(inspect.getsource(getattr(importlib.import_module(module), name)))).body
    own = [node for node in ast.parse(cell.source).body if getattr(node, "name", None) == name]
    assert list(map(without_docstrings, own)) == list(map(without_docstrings, library))


def words(source: str) -> int:
    """Words that a reader reads: no tables, pictures and addresses of links."""
    lines = [line for line in source.splitlines() if not line.lstrip().startswith(("|", "![", "[!["))]
    return len(re.findall(r"\w[\w'.-]*", re.sub(r"\]\([^)]*\)", "]", "\n".join(lines))))


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_has_2500_words_and_65_code_cells_at_most(path: Path) -> None:
    assert sum(len(source.split()) for source in PROSE[path]) <= 2500  # tables, links and references included
    assert len(CODE[path]) <= 65


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_imports_at_the_top_what_it_needs_from_the_start(path: Path) -> None:
    cells = [ast.parse(cell.source).body for cell in CODE[path] if "setup" not in tags(cell)]
    walls = [[node for node in body if isinstance(node, ast.Import | ast.ImportFrom)] for body in cells]
    first = next(filter(None, walls))
    assert sum(node.end_lineno - node.lineno + 1 for node in first) <= 8, "import a name where it is first used"


@each
def test_cells_are_short(path: Path) -> None:
    setup, *cells = CODE[path]
    assert len(setup.source.splitlines()) <= 6
    lengths = [len(cell.source.splitlines()) for cell in cells]
    assert max(lengths) <= 25
    assert statistics.median(lengths) <= 8
    for source in PROSE[path]:
        assert words(source) <= LONGEST_PROSE or "## References" in source, source


@each
def test_cells_hold_python_alone(path: Path) -> None:
    for cell in CODE[path]:
        ast.parse(cell.source)  # a magic, or a shell command that fails, would pass nbval unseen
        assert not re.search(r";\s*(#.*)?$", cell.source), "a `;` at the end hides output from the reader"
        assert "get_ipython" not in cell.source


def anchors(text: str) -> set[str]:
    """What links to the headings of a page end with."""
    headings = re.findall(r"^#+ (.+)", text.lower(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).replace(" ", "-") for heading in headings}


@each
def test_links_lead_to_files_of_the_repository(path: Path) -> None:
    for link in re.findall(r"\]\((?!https?:|#|attachment:)([^)\s]+)\)", "\n".join(PROSE[path])):
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve()
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), f"no heading of {name} is {anchor}"
        assert target.is_relative_to(ROOT), link


@each
def test_prose_does_not_call_things_easy(path: Path) -> None:
    assert not re.findall(r"\b(?:simply|just|obviously)\b", "\n".join(PROSE[path]), re.IGNORECASE)


@each_lesson
def test_a_lesson_has_a_plan_of_90_minutes_whose_misconceptions_are_indexed(path: Path) -> None:
    plan, index = ((TEACHING / name).read_text() for name in (f"{path.stem}.md", "index.md"))
    assert sum(map(int, re.findall(r"^\| (\d+) \|", plan, re.MULTILINE))) == 90
    for mark in (r"### \d\. ", r"\*\*Answer\.\*\* ", *(rf"- \*\*{points} points?:\*\* " for points in (0, 1, 2))):
        assert len(re.findall(rf"^{mark}", plan, re.MULTILINE)) == 5, mark
    beliefs = re.findall(r"^\| [^|]+ \| \[.+?\)(?= \|)", plan.partition("## Misconceptions")[2], re.MULTILINE)
    assert len(beliefs) > 5
    assert not [belief for belief in beliefs if belief not in index]
    assert set(re.findall(r"(?<![\d.])0\d\.\d", plan)) <= EXERCISES.keys()


@pytest.mark.parametrize("page", sorted(TEACHING.glob("*.md")), ids=lambda page: page.stem)
def test_pages_for_teachers_name_files_and_sections_that_exist(page: Path) -> None:
    for text, link in re.findall(r"\[([^]]+)\]\((?!https?:)([^)#]+)\)", page.read_text()):
        target = (page.parent / link).resolve()
        assert target.exists(), link
        if target in PROSE:
            assert text in re.findall(r"^#+ (.+)$", "\n".join(PROSE[target]), re.MULTILINE)


@each_lesson
def test_a_lesson_has_its_sections_in_order(path: Path) -> None:
    text, parts = "\n".join(PROSE[path]), sections(path)
    assert re.match(rf"# {path.stem[:2]}\. \w", text), "the title starts with the number of the file"
    headings = [next((name for name in SECTIONS if heading.startswith(name)), None) for heading in parts]
    assert list(filter(None, headings)) == SECTIONS
    assert "**Before you start" in text
    assert len(build.RUN_TIME.findall(text)) == 1
    assert 3 <= len(re.findall(r"^- ", parts["What you will be able to do"], re.MULTILINE)) <= 5
    number = int(path.stem[:2])
    assert number == len(NUMBERS) - 1 or re.search(rf"\b{number + 1:02}\b", parts["Next"]), "name the next notebook"
    references = re.findall(r"^- .+", parts["References"], re.MULTILINE)
    dated = [reference for reference in references if re.search(r"\b(19|20)\d\d\b", reference)]
    assert len(dated) >= max(1, len(references) - 1), "papers have a year; one data sheet or repository may do without"


@each_lesson
def test_predictions_are_asked_first_and_answered_by_results(path: Path) -> None:
    asked, answered = (
        {call.args[0].value: (i, call) for i, cell in enumerate(CODE[path]) for call in calls(cell, function)}
        for function in ("predict", "reveal")
    )
    assert list(asked) == list(answered) == sorted(asked)
    assert len(asked) >= 2
    assert all(name.startswith(f"{path.stem[:2]}.") for name in asked)
    for name, (place, call) in answered.items():
        assert place > asked[name][0], "a guess is made before the answer is shown"
        assert not isinstance(call.args[1], ast.Constant), "take the answer from the result"


@each_lesson
def test_a_lesson_has_a_widget_and_each_is_beside_a_figure_that_needs_no_kernel(path: Path) -> None:
    widgets = [i for i, cell in enumerate(CODE[path]) if "widget" in tags(cell)]
    assert widgets
    for widget in widgets:
        near = [out for cell in CODE[path][max(0, widget - 3) : widget + 4] for out in cell.outputs]
        assert any("text/html" in out.get("data", {}) for out in near), "show a figure, at most three cells away"


# --------------------------------------------------------------------------------------------------------- exercises


@each_lesson
def test_a_lesson_and_its_solutions_hold_the_same_exercises(path: Path) -> None:
    names = [name for name in EXERCISES if name.startswith(f"{path.stem[:2]}.")]
    assert len(names) >= 3
    assert list(checked(path)) == list(checked(FOLDER / "solutions" / path.name)) == names


@each_lesson
def test_a_stub_is_not_passed_and_its_solution_is(path: Path) -> None:
    for name, (stub, check_cell) in checked(path).items():
        verdict = check(name, run(path, name))
        assert not verdict.passed
        assert printed(check_cell) == verdict.text == f"Exercise {name}: not attempted yet (nothing is returned)."
        assert not stub.outputs
    solved = FOLDER / "solutions" / path.name
    for name, (_, check_cell) in checked(solved).items():
        verdict = check(name, run(solved, name))
        assert verdict.passed, verdict
        assert printed(check_cell) == verdict.text


# ----------------------------------------------------------------------------------------------------------- outputs


@each
def test_a_notebook_was_executed_from_top_to_bottom_without_errors(path: Path) -> None:
    assert [cell.execution_count for cell in CODE[path]] == list(range(1, len(CODE[path]) + 1))
    for output in outputs(path):
        assert output.output_type != "error"
        assert output.get("name") != "stderr"
        assert set(output.get("data", {})) <= {"text/plain", "text/html"}, "show figures through maelib.course.figure"


def captions(page: str) -> list[str]:
    """The captions on a page of HTML, each of which is its picture's alt text too."""
    figures = BeautifulSoup(page, "html.parser").find_all("figure")
    assert [figure.img["alt"] for figure in figures] == [figure.figcaption.text for figure in figures]
    return [figure.figcaption.text for figure in figures]


@each
def test_figures_are_numbered_in_order_and_described(path: Path) -> None:
    shown = [output.data for output in outputs(path) if "text/html" in output.get("data", {})]
    texts = [data["text/plain"] for data in shown]
    assert captions("".join(data["text/html"] for data in shown)) == texts
    for number, text in enumerate(texts, start=1):
        assert re.match(rf"Figure {number}\. \w", text), f"{text!r} is figure {number}; number the captions in order"
        assert len(text.split()) >= 6, f"{text!r}: say what the figure shows"
    assert "![](" not in "\n".join(PROSE[path])


def test_a_web_page_made_of_a_lesson_shows_its_captions_and_describes_each_picture(caplog) -> None:
    page, _ = HTMLExporter().from_notebook_node(READ[LESSONS[0]])
    assert len(captions(page)) == page.count("<img") - page.count("colab-badge.svg") > 3
    assert "lternative text is missing" not in caplog.text


@each
def test_saved_text_is_the_same_on_every_machine_and_has_three_digits(path: Path) -> None:
    for text in map(printed, CODE[path]):
        assert not re.search(MACHINE, text), "a path or an address in memory"
        for number in re.findall(r"\d+\.\d+", text):
            assert len(number.replace(".", "").lstrip("0")) <= 3 or re.fullmatch(r"0\d\.\d", number), number


@each
def test_a_cell_that_asserts_follows_an_output_that_is_not_compared(path: Path) -> None:
    for cell, after in itertools.zip_longest(CODE[path], CODE[path][1:]):
        if "nbval-ignore-output" in tags(cell):
            assert after is not None
            assert "assert" in after.source
            assert "nbval-ignore-output" not in tags(after)


def test_running_a_notebook_compares_what_is_printed_and_leaves_stderr_out(tmp_path: Path) -> None:
    notebook = nbformat.v4.new_notebook()
    for source, text in {"import sys; print(0, file=sys.stderr)": "", "print(1)": "1\n", "print(2)": "1\n"}.items():
        saved = [nbformat.v4.new_output("stream", name="stdout", text=text)] if text else []
        notebook.cells.append(nbformat.v4.new_code_cell(source, outputs=saved, execution_count=1))
    nbformat.write(notebook, tmp_path / "three.ipynb")
    options = re.search(r"^NBVAL *:= (.*) notebooks$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    command = [sys.executable, "-m", "pytest", "-n", "1", *options, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "tools"), str(ROOT)])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert "1 failed, 2 passed" in done.stdout, done.stdout
    assert "Cell 2: Cell outputs differ" in done.stdout
