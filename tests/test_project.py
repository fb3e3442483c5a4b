"""What holds the repository together: environment files, module floors, budgets, what is said in public."""

import ast
import io
import os
import re
import subprocess
import sys
import tokenize
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "maelib").rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
README = (ROOT / "README.md").read_text()

TOP_LEVEL = {
    ".ci", ".gitignore", "CHANGELOG.md", "CITATION.cff", "LICENSE", "Makefile", "README.md", "benchmarks", "data",
    "docs", "environment.yml",
    "maelib", "notebooks", "pyproject.toml", "requirements.lock", "tests", "tools",
}  # fmt: skip

# Seconds to import; a module that needs one imports it in the function that uses it.
HEAVY = {"torchvision", "timm", "torchmetrics", "cv2", "skimage", "transformers", "accelerate", "scipy", "wandb"}

MACHINES = [
    {"sys_platform": system, "platform_system": name, "os_name": os_name, "platform_machine": machine}
    for system, name, os_name, machine in [
        ("linux", "Linux", "posix", "x86_64"),
        ("linux", "Linux", "posix", "aarch64"),
        ("darwin", "Darwin", "posix", "arm64"),
        ("win32", "Windows", "nt", "AMD64"),
    ]
]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")


def tracked_files() -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


def tracked_texts() -> Iterator[tuple[Path, str]]:
    for path in tracked_files():
        try:
            yield path.relative_to(ROOT), path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def read_lock() -> list[tuple[str, str, Marker | None]]:
    """Name, version and marker of every pin in requirements.lock."""
    pins = []
    for line in re.findall(r"^([a-z0-9].*?) \\$", (ROOT / "requirements.lock").read_text(), re.MULTILINE):
        pin = Requirement(line)
        pins.append((canonicalize_name(pin.name), str(pin.specifier).removeprefix("=="), pin.marker))
    return pins


def wanted() -> list[Requirement]:
    """Every requirement of pyproject.toml, those of the extras that `make lock` pins included."""
    locked = re.search(r"^LOCKED := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    assert set(PROJECT["optional-dependencies"]) - set(locked) == {"bench", "fuzz"}
    extras = [PROJECT["optional-dependencies"][extra] for extra in locked]
    return [Requirement(line) for line in PROJECT["dependencies"] + [line for extra in extras for line in extra]]


def module_id(path: Path) -> str:
    """Such as `patches` or `exercises.patching`."""
    return ".".join(path.relative_to(ROOT / "maelib").with_suffix("").parts)


def syntax_tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def module_level_imports(tree: ast.Module) -> Iterator[str]:
    """Top-level packages that importing the module imports: everything outside functions."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0]
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))


def imported_modules(tree: ast.Module) -> set[str]:
    """The modules of maelib that a module imports, anywhere in it."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import; write `from maelib.x import y`"
            names |= {f"maelib.{alias.name}" for alias in node.names} if node.module == "maelib" else {node.module}
    return {name.split(".")[1] for name in names if name.startswith("maelib.")}


def code_lines(path: Path) -> int:
    """Lines that hold code: neither blank, nor comment, nor docstring."""
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    text = path.read_text(encoding="utf-8")
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in silent:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            lines.difference_update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


# ---------------------------------------------------------------------------------------------- environment files


def test_every_requirement_is_locked_at_a_version_that_it_allows() -> None:
    pins = read_lock()
    for requirement in wanted():
        versions = [version for name, version, _ in pins if name == canonicalize_name(requirement.name)]
        assert versions, f"{requirement.name} is missing from requirements.lock; run `make lock`"
        for version in versions:
            assert requirement.specifier.contains(version, prereleases=True), f"{requirement} is locked at {version}"


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: "-".join(machine.values()))
def test_the_lock_gives_every_machine_one_version_of_each_requirement(machine: dict, python: str) -> None:
    here = {**machine, "python_version": python, "python_full_version": f"{python}.9"}
    chosen = [name for name, _, marker in read_lock() if marker is None or marker.evaluate(here)]
    assert len(chosen) == len(set(chosen)), "two versions of one package"
    assert {canonicalize_name(requirement.name) for requirement in wanted()} <= set(chosen)


def test_every_pin_is_held_by_hashes() -> None:
    blocks = re.split(r"^(?=[a-z0-9])", (ROOT / "requirements.lock").read_text(), flags=re.MULTILINE)[1:]
    assert len(blocks) == len(read_lock())
    assert all("--hash=sha256:" in block for block in blocks)


def test_the_conda_environment_is_the_lock() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, packages = environment["dependencies"]
    assert (environment["name"], pip) == (PROJECT["name"], "pip")
    assert packages == {"pip": ["-r requirements.lock"]}
    version = python.removeprefix("python=")
    assert version in PYTHONS
    assert version in SpecifierSet(PROJECT["requires-python"])


def test_the_citation_names_this_version_and_licence() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    assert all(set(author) == {"name"} for author in citation["authors"]), "an entity, not people"


# ------------------------------------------------------------------------------------------------ what is tracked


def test_the_top_level_is_the_agreed_one() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in tracked_files()} <= TOP_LEVEL


def test_no_text_names_a_machine_path() -> None:
    machine_path = re.compile(r"(?<![\w.~])/(?:root|home|Users|work|workspace)/\w|\b[A-Z]:\\+Users\\")
    found = [f"{path}: {match.group()}" for path, text in tracked_texts() for match in machine_path.finditer(text)]
    assert not found


def test_no_text_names_a_registry_host() -> None:
    hosts = [
        ("pypi", "org"), ("python" + "hosted", "org"), ("py" + "torch", r"org/whl"), ("download." + "pytorch", "org"),
        ("npm" + "js", "org"), ("anaconda", "org"), ("conda.anaconda", "org"), ("debian", "org"),
    ]  # fmt: skip
    registry = re.compile("|".join(rf"{name}\.{end}" for name, end in hosts) + r"|index-url[= ]+\w+:", re.IGNORECASE)
    found = [f"{path}: {match.group()}" for path, text in tracked_texts() for match in registry.finditer(text)]
    assert not found


def test_no_tracked_file_is_over_ten_megabytes() -> None:
    assert not [str(path) for path in tracked_files() if path.stat().st_size > 10e6]


# ---------------------------------------------------------------------------------------------------- the library


def test_importing_maelib_imports_nothing_slow() -> None:
    code = "import sys, maelib; print(' '.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not (HEAVY | {"matplotlib"}) & set(run.stdout.split())


@pytest.mark.parametrize("path", MODULES, ids=module_id)
def test_a_module_imports_slow_packages_only_where_it_uses_them(path: Path) -> None:
    assert not HEAVY & set(module_level_imports(syntax_tree(path)))


def test_the_library_stays_small() -> None:
    core = [path for path in MODULES if path.stem in {"patches", "masking", "model", "losses"}]
    assert sum(map(code_lines, core)) < 600


@pytest.mark.parametrize("path", MODULES, ids=module_id)
def test_no_module_outgrows_one_reading(path: Path) -> None:
    assert code_lines(path) < 280, "look for the second idea in it"


def test_the_wheel_carries_the_library_the_model_and_a_few_facades(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, capture_output=True, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}

    library = {str(path.relative_to(ROOT)) for path in (ROOT / "maelib").rglob("*.*") if path.suffix in {".py", ".js"}}
    assert {name for name in names if not name.startswith("maelib/_data/")} == library
    data = {name.removeprefix("maelib/_data/") for name in names if name.startswith("maelib/_data/")}
    bundled = {f"checkpoints/{path.name}" for path in (ROOT / "data" / "checkpoints").glob("*")}
    facades = {f"complete_npy/{path.name}" for path in (ROOT / "data" / "complete_npy").glob("*0.npy")}
    assert data == bundled | facades
    assert wheel.stat().st_size < 15e6


# ----------------------------------------------------------------------------------------------------- the README


def fenced(language: str) -> str:
    return "\n".join(re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL))


def test_the_readme_links_to_files_that_exist() -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)\s]+)\)|src=\"([^\"]+)\"", README)
    missing = [name for name in (a or b for a, b in links) if not (ROOT / name).exists()]
    assert not missing


def test_the_readme_example_draws_the_picture_above_it(tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", fenced("python")], cwd=tmp_path, env=environment, check=True)
    drawn, shown = (np.asarray(Image.open(path / "repair.png"), float) for path in (tmp_path, ROOT / "data"))
    assert drawn.shape == shown.shape
    assert np.abs(drawn - shown).max() <= 3, "run `make picture`"  # of 255: CPUs round differently


@pytest.mark.parametrize("code", [0, 2])
def test_weights_are_fetched_once_and_the_course_opens_without_them_too(code: int, tmp_path: Path) -> None:
    programs = {"python": "", "pip": "", "jupyter": "echo opened", "maelib": f"echo fetch $* >&2; exit {code}"}
    (tmp_path / "bin").mkdir()
    for name, line in programs.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "ready").touch()
    command = ["make", "--no-print-directory", "lab", f"VENV={tmp_path}"]
    runs = [subprocess.run(command, cwd=ROOT, capture_output=True, text=True) for _ in range(2)]
    assert [run.returncode for run in runs] == [0, 0]
    assert all("opened" in run.stdout for run in runs)
    assert [run.stderr for run in runs] == ["fetch fetch vgg19\n", "fetch fetch vgg19\n" if code else ""]


def test_the_readme_commands_exist_with_the_options_shown() -> None:
    commands = [line.split() for line in fenced("sh").splitlines() if line.startswith("maelib ")]
    shown = {words[1] for words in commands}
    assert shown >= {"draw", "train", "evaluate", "fetch", "reconstruct", "probe", "finetune"}
    for words in commands:
        run = subprocess.run([sys.executable, "-m", "maelib", words[1], "--help"], cwd=ROOT, capture_output=True)
        assert run.returncode == 0
        for option in (word for word in words if word.startswith("--")):
            assert option in run.stdout.decode(), f"maelib {words[1]} has no {option}"
