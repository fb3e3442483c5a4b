"""The scripts that write the notebooks: the build, and the one that sets the repository's address. Always on copies."""

import re
import shutil
import tomllib
from pathlib import Path

import build
import nbformat
import publish
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).parents[2]
ADDRESS = "https://github.com/some-school/facades"
HEAD = "# 01. Other\n\n**Run time:** 99 s on 2 CPU cores, no GPU."
LESSON, SOLVED = "notebooks/00_small.ipynb", "notebooks/solutions/00_small.ipynb"


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of a repository that the scripts touch: pyproject.toml, a lesson, its solution, a form test."""
    for name in ("pyproject.toml", "CITATION.cff", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "teachers.md").write_text("| 01 other | 00 | 5 s | 1 GB | 3 |\n")
    (tmp_path / "tests" / "notebooks").mkdir(parents=True)
    (tmp_path / "tests" / "notebooks" / "test_form.py").write_text("def test_the_form_of_00_small():\n    pass\n")
    setup = new_code_cell("# to be filled in", metadata={"tags": ["setup"]})
    two = new_code_cell("1 + 1", outputs=[new_output("execute_result", {"text/plain": "2"})])
    for name in (LESSON, SOLVED):
        (tmp_path / name).parent.mkdir(parents=True)
        notebook = new_notebook(cells=[new_markdown_cell("# 00. Small\n\nOne sentence."), setup, two])
        nbformat.write(notebook, tmp_path / name)
    monkeypatch.setattr(build, "ROOT", tmp_path)
    assert publish.main([""]) == 0  # whatever address this repository has
    return tmp_path


def contents(copy: Path) -> list[bytes]:
    return [(copy / name).read_bytes() for name in ("pyproject.toml", "CITATION.cff", "README.md", LESSON, SOLVED)]


def cells(copy: Path, name: str) -> list[nbformat.NotebookNode]:
    return nbformat.read(copy / name, as_version=4).cells


def test_an_address_reaches_project_setup_cells_and_badges_and_nothing_else(copy: Path) -> None:
    nowhere, before = contents(copy), {name: cells(copy, name) for name in (LESSON, SOLVED)}
    assert b"Open in Colab" not in b"".join(nowhere)
    assert publish.main([f"{ADDRESS}.git"]) == 0
    assert tomllib.loads((copy / "pyproject.toml").read_text())["project"]["urls"] == {"Repository": ADDRESS}
    assert "(https://some-school.github.io/facades/)" in (copy / "README.md").read_text()
    assert f"code: {ADDRESS}" in (copy / "CITATION.cff").read_text()
    for name, (head, setup, rest) in before.items():
        new_head, new_setup, new_rest = cells(copy, name)
        assert new_rest == rest
        assert f'library = "maelib[classical] @ git+{ADDRESS}"' in new_setup.source
        assert "git+" not in setup.source
        title, _, badge, *sentence = new_head.source.splitlines()
        assert re.fullmatch(rf"\[!\[Open in Colab\].*/github/some-school/facades/blob/main/{name}\)", badge)
        assert [title, *sentence] == head.source.splitlines()

    assert publish.main(["https://github.com/other/fork/"]) == 0
    assert b"some-school" not in b"".join(contents(copy))
    assert publish.main([""]) == 0
    assert contents(copy) == nowhere


def test_other_addresses_of_the_project_stay() -> None:
    other = '[project]\n\n[project.urls]\nDocumentation = "https://example.com"\n\n[project.scripts]\n'
    both = publish.with_repository(other, ADDRESS)
    assert set(tomllib.loads(both)["project"]["urls"]) == {"Documentation", "Repository"}
    assert publish.with_repository(both, "") == other


def test_a_wrong_call_says_what_is_right_and_changes_nothing(copy: Path, capsys: pytest.CaptureFixture) -> None:
    before = contents(copy)
    assert publish.main([]) == 2
    for address in ("github.com/a/b", "https://github.com/a", "https://gitlab.com/a/b", f'{ADDRESS}"; import os #'):
        assert publish.main([address]) == 1
    with pytest.raises(SystemExit, match="2"):
        build.main(["10_none"])
    said = capsys.readouterr()
    assert "https://github.com/owner/name" in said.out
    assert said.err.count("use https://github.com/owner/name") == 4
    assert "no notebook named 10_none" in said.err
    assert contents(copy) == before


def write_lesson(copy: Path, *sources: str) -> Path:
    path = copy / "notebooks" / "01_other.ipynb"
    nbformat.write(new_notebook(cells=[new_markdown_cell(HEAD), *map(new_code_cell, sources)]), path)
    return path


def test_a_build_executes_the_notebook_that_was_named(copy: Path, capfd: pytest.CaptureFixture) -> None:
    others, path = contents(copy), write_lesson(copy, "1 + 1", "3")
    build.main(["01_other"])
    said = re.match(r"executing notebooks/01_other.ipynb (\d0 s), ([\d.]+ GB)\n", capfd.readouterr().out)
    head, *executed = cells(copy, f"notebooks/{path.name}")
    assert head.source == HEAD.replace("99 s", "{} and {} of memory".format(*said.groups()))
    assert (copy / "docs" / "teachers.md").read_text() == "| 01 other | 00 | {} | {} | 3 |\n".format(*said.groups())
    assert [cell.outputs[0].data["text/plain"] for cell in executed] == ["2", "3"]
    assert [cell.execution_count for cell in executed] == [1, 2]
    assert contents(copy) == others


@pytest.mark.parametrize(
    ("seconds", "gigabytes", "said"),
    [(2, 0.1, "10 s, 0.5 GB"), (54, 0.8, "50 s, 1 GB"), (56, 1.3, "1 minute, 1.5 GB"), (140, 2, "2.5 minutes, 2 GB")],
)
def test_run_times_and_memory_are_stated_in_coarse_steps(seconds: float, gigabytes: float, said: str) -> None:
    assert ", ".join(build.stated(**build.rounded(seconds, int(gigabytes * 1e9)))) == said


@pytest.mark.parametrize(
    ("second", "what"),
    [("# a comment\n1 / 0", "ZeroDivisionError: division by zero"), ("import os; os._exit(1)", "died")],
)
def test_a_failing_cell_is_named_and_the_file_stays(copy, second, what, capfd) -> None:
    path = write_lesson(copy, "1 + 1", second, "2")
    before = path.read_bytes()
    assert build.main(["01_other"]) == 1
    said = capfd.readouterr().err
    assert f"01_other.ipynb, code cell 2, `{second.splitlines()[0]}`: " in said
    assert what in said
    assert path.read_bytes() == before
    assert not list(path.parent.glob(".*"))


def test_a_check_runs_the_tests_of_the_form_and_changes_nothing(copy: Path, capfd: pytest.CaptureFixture) -> None:
    path = write_lesson(copy, "1 + 1")
    before = path.read_bytes()
    assert build.main(["--check", "00_small"]) == 0
    assert "1 passed" in capfd.readouterr().out
    assert path.read_bytes() == before
