"""What writes the notebooks: building them, and telling them where the repository lives. Always on copies."""

import importlib
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).parents[1]
ADDRESS = "https://github.com/some-school/facades"
LESSON, SOLVED = "00_small.ipynb", "solutions/00_small.ipynb"


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What these scripts touch of a repository: pyproject.toml, a lesson, its solutions, a form test that passes."""
    folder = tmp_path / "notebooks"
    (folder / "solutions").mkdir(parents=True)
    (tmp_path / "tools").mkdir()
    for name in ("pyproject.toml", "tools/build.py", "tools/badges.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_notebooks.py").write_text("def test_the_form_of_00_small():\n    pass\n")
    setup = new_code_cell("# to be filled in", metadata={"tags": ["setup"]})
    two = new_code_cell("1 + 1", outputs=[new_output("execute_result", {"text/plain": "2"})])
    for name in (LESSON, SOLVED):
        nbformat.write(
            new_notebook(cells=[new_markdown_cell("# 00. Small\n\nOne sentence."), setup, two]), folder / name
        )
    monkeypatch.syspath_prepend(tmp_path / "tools")
    for module in ("build", "badges"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    assert set_address("") == 0  # whatever this repository's own address is
    yield tmp_path
    for module in ("build", "badges"):
        sys.modules.pop(module, None)


def set_address(*arguments: str) -> int:
    return importlib.import_module("badges").main(list(arguments))


def build(*arguments: str) -> int:
    return importlib.import_module("build").main(list(arguments))


def contents(copy: Path) -> dict[str, bytes]:
    return {
        name: (copy / name).read_bytes() for name in ("pyproject.toml", f"notebooks/{LESSON}", f"notebooks/{SOLVED}")
    }


def cells(copy: Path, name: str) -> list[nbformat.NotebookNode]:
    return nbformat.read(copy / "notebooks" / name, as_version=4).cells


# ------------------------------------------------------------------------------------------------------------ badges


def test_an_address_reaches_project_setup_cells_and_badges_and_nothing_else(copy: Path) -> None:
    before = {name: cells(copy, name) for name in (LESSON, SOLVED)}
    assert set_address(ADDRESS) == 0
    project, known = (tomllib.loads((folder / "pyproject.toml").read_text()) for folder in (copy, ROOT))
    known["project"].pop("urls", None)
    assert project["project"].pop("urls") == {"Repository": ADDRESS}
    assert project == known
    for name, (head, setup, rest) in before.items():
        new_head, new_setup, new_rest = cells(copy, name)
        assert new_rest == rest
        assert new_setup.source == setup.source.replace('address, wheels = ""', f'address, wheels = "{ADDRESS}"')
        assert new_setup != setup
        title, _, badge, *sentence = new_head.source.splitlines()
        if name == LESSON:
            assert badge.startswith("[![Open in Colab](")
            assert badge.endswith(f"/github/some-school/facades/blob/main/notebooks/{LESSON})")
            assert [title, *sentence] == head.source.splitlines()
        else:
            assert new_head == head


def test_the_address_of_a_fork_replaces_it_and_an_empty_one_takes_it_away(copy: Path) -> None:
    nowhere = contents(copy)
    set_address(ADDRESS)
    somewhere = contents(copy)
    assert set_address(f"{ADDRESS}.git") == 0
    assert contents(copy) == somewhere
    assert set_address("https://github.com/other/fork/") == 0
    assert all(b"some-school" not in content for content in contents(copy).values())
    assert set_address("") == 0
    assert contents(copy) == nowhere
    assert not any(b"Open in Colab" in content for content in nowhere.values())


def test_other_addresses_of_the_project_stay(copy: Path) -> None:
    project = copy / "pyproject.toml"
    project.write_text(project.read_text() + '\n[project.urls]\nDocumentation = "https://example.com"\n')
    set_address(ADDRESS)
    assert set(tomllib.loads(project.read_text())["project"]["urls"]) == {"Documentation", "Repository"}
    set_address("")
    assert set(tomllib.loads(project.read_text())["project"]["urls"]) == {"Documentation"}


@pytest.mark.parametrize(
    "repository",
    [
        "github.com/owner/name",
        "http://github.com/owner/name",
        "https://github.com/owner",
        "https://github.com/owner/name/tree/main",
        "https://gitlab.com/owner/name",
        "git@github.com:owner/name.git",
        'https://github.com/owner/name"; import os #',
    ],
)
def test_what_is_no_repository_on_github_is_refused(copy: Path, repository: str, capsys: pytest.CaptureFixture) -> None:
    before = contents(copy)
    assert set_address(repository) == 1
    said = capsys.readouterr().err
    assert "is no web address of a GitHub repository; use https://github.com/owner/name" in said
    assert contents(copy) == before


def test_without_an_argument_it_says_how_it_is_used_and_changes_nothing(
    copy: Path, capsys: pytest.CaptureFixture
) -> None:
    before = contents(copy)
    assert set_address() == 2
    assert "https://github.com/owner/name" in capsys.readouterr().out
    assert contents(copy) == before


def test_make_tells_no_address_from_an_empty_one() -> None:
    for given, argument in (([], ""), (["REPO="], " ''"), ([f"REPO={ADDRESS}"], f" '{ADDRESS}'")):
        command = ["make", "-n", "badges", *given]
        dry = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert re.search(rf"badges\.py{argument} ?$", dry, re.MULTILINE)


# ------------------------------------------------------------------------------------------------------------- build


def write_lesson(copy: Path, *sources: str) -> Path:
    path = copy / "notebooks" / "01_other.ipynb"
    nbformat.write(new_notebook(cells=[new_markdown_cell("# 01. Other"), *map(new_code_cell, sources)]), path)
    return path


def test_a_build_executes_a_notebook_and_tells_what_it_cost(copy: Path, capfd: pytest.CaptureFixture) -> None:
    others, path = contents(copy), write_lesson(copy, "1 + 1", "held = bytes(10**6)\nlen(held)")
    assert build("01_other") != 1
    said = capfd.readouterr().out
    _, *executed = cells(copy, path.name)
    assert [cell.outputs[0].data["text/plain"] for cell in executed] == ["2", "1000000"]
    assert [cell.execution_count for cell in executed] == [1, 2]
    wall, cpu, peak = map(int, re.search(r"^01_other\.ipynb +(\d+) +(\d+) +(\d+)$", said, re.MULTILINE).groups())
    assert 20 < peak < 200, "MB, for a kernel that imports nothing"
    assert wall + cpu < 1000, "seconds"
    assert contents(copy) == others


@pytest.mark.parametrize(
    ("second", "what"),
    [
        ("# a comment\n1 / 0", "ZeroDivisionError: division by zero"),
        ("import os; os._exit(1)", "died"),
        ("raise SystemExit('set the address')", "SystemExit: set the address"),
    ],
)
def test_a_cell_that_fails_is_named_and_the_file_stays(
    copy: Path, second: str, what: str, capfd: pytest.CaptureFixture
) -> None:
    path = write_lesson(copy, "1 + 1", second, "2")
    before = path.read_bytes()
    assert build("01_other") == 1
    said = capfd.readouterr().err
    assert f"01_other.ipynb, code cell 2, `{second.splitlines()[0]}`: " in said
    assert what in said
    assert path.read_bytes() == before
    assert not list(path.parent.glob(".*"))


def test_a_check_executes_and_changes_nothing(copy: Path, capfd: pytest.CaptureFixture) -> None:
    path = write_lesson(copy, "1 + 1")
    before = path.read_bytes()
    assert build("--check", "00_small") == 0
    assert "1 passed" in capfd.readouterr().out
    assert path.read_bytes() == before


def test_an_unknown_notebook_is_refused(copy: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        build("10_none")
    assert "no notebook named 10_none" in capsys.readouterr().err
