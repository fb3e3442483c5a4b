"""What holds the repository together: the environment files, the floors and sizes of the library, the README."""

import contextlib
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import stub_environment
from graph import code_lines, files_of
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from PIL import Image

import maelib

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "maelib").rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
README = (ROOT / "README.md").read_text()
MAKEFILE = dict(re.findall(r"^(\w+) *:= (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE))

TOP_LEVEL = {
    ".ci", ".github", ".gitignore", "binder", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "Makefile",
    "README.md", "benchmarks", "data", "docs", "environment.yml", "maelib", "notebooks", "pyproject.toml",
    "requirements.lock", "SECURITY.md", "tests", "tools",
}  # fmt: skip
# Packages that take seconds to import; the functions that need one import it.
HEAVY = {
    "accelerate", "cv2", "matplotlib", "scipy", "skimage", "timm", "torchmetrics", "torchvision", "transformers",
    "wandb",
}  # fmt: skip


def tracked_files() -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


# ---------------------------------------------------------------------------------------------- environment files


def test_every_requirement_is_locked_at_a_version_that_it_allows_and_by_hashes() -> None:
    pins = re.split(r"^(?=[a-z0-9])", (ROOT / "requirements.lock").read_text(), flags=re.MULTILINE)[1:]
    lock = {Requirement(pin.partition(" \\")[0]): pin for pin in pins}
    extras, locked = PROJECT["optional-dependencies"], MAKEFILE["LOCKED"].split()
    assert extras.keys() - set(locked) == {"bench", "docs", "fuzz"}
    lines = PROJECT["dependencies"] + [line for name in locked for line in extras[name]]
    for requirement in map(Requirement, lines):
        pins = [pin for pin in lock if canonicalize_name(pin.name) == canonicalize_name(requirement.name)]
        assert pins, f"{requirement.name} is missing from requirements.lock; run `make lock`"
        for pin in pins:
            version = str(pin.specifier).removeprefix("==")
            assert requirement.specifier.contains(version, prereleases=True), f"{requirement} is locked at {version}"
    assert all("--hash=sha256:" in text for text in lock.values())


def test_the_conda_environment_is_the_lock() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, packages = environment["dependencies"]
    assert (environment["name"], pip, packages) == (PROJECT["name"], "pip", {"pip": ["-r requirements.lock"]})
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.removeprefix("python="))


def test_citation_and_changelog_name_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    assert all(set(author) == {"name"} for author in citation["authors"]), "an entity, not people"
    newest = re.search(r"^## (\S+) \((\S+)\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest.groups() == (PROJECT["version"], str(citation["date-released"]))


@pytest.fixture
def make(tmp_path: Path):
    """Runs make with programs that do nothing, or what a test says, in place of an environment's."""

    def run(*words: str, **programs: str) -> subprocess.CompletedProcess:
        stub_environment(tmp_path, **programs)
        command = ["make", "--no-print-directory", f"VENV={tmp_path}", *words]
        outside = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL")}
        return subprocess.run(command, cwd=ROOT, env=outside, capture_output=True, text=True, check=False)

    return run


@pytest.mark.needs("make")
def test_every_stage_of_the_tests_runs_and_the_end_names_those_that_failed(make) -> None:
    passed = make("test")
    assert passed.returncode == 0
    assert passed.stdout.splitlines()[-1] == "== all passed: lint format floors tests notebooks"
    failed = make("test-all", ruff='[ "$1" = format ]', pytest='echo "$*"; case "$*" in *nbval*) exit 0;; esac; exit 1')
    assert failed.returncode != 0
    assert failed.stdout.splitlines()[-1] == "== failed: lint tests"
    assert "-m slow or not slow\n" in failed.stdout


@pytest.mark.needs("make")
@pytest.mark.parametrize("code", [0, 2])
def test_weights_are_fetched_once_and_the_course_opens_without_them_too(make, code: int) -> None:
    runs = [make("lab", jupyter="echo opened", maelib=f"echo fetch $* >&2; exit {code}") for _ in range(2)]
    assert all(run.returncode == 0 and "opened" in run.stdout for run in runs)
    assert [run.stderr for run in runs] == ["fetch fetch vgg19\n", "fetch fetch vgg19\n" if code else ""]


# ------------------------------------------------------------------------------------------------ what is tracked


@pytest.mark.needs("git")
def test_the_top_level_is_the_agreed_one_and_no_file_is_large() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in tracked_files()} <= TOP_LEVEL
    assert not [path for path in tracked_files() if path.stat().st_size > 12e6]


@pytest.mark.needs("git")
def test_no_text_names_a_machine_path_or_a_registry_host() -> None:
    registry = r"(pypi|pythonhosted|npmjs|anaconda|debian|download\.pytorch)\.org|pytorch\.org/whl|index-url[= ]+\w+:"
    machine = r"(?<![\w.~])/(?:root|home|Users|work|workspace)/\w|\b[A-Z]:\\+Users\\"
    found = []
    for path in tracked_files():
        with contextlib.suppress(UnicodeDecodeError):
            matches = re.finditer(f"(?i:{registry})|{machine}", path.read_text(encoding="utf-8"))
            found += [f"{path.relative_to(ROOT)}: {match.group()}" for match in matches]
    assert not found


# ---------------------------------------------------------------------------------------------------- the library


def test_imports_run_down_the_floors() -> None:
    lint = [Path(sys.executable).parent / "lint-imports", "--no-logo", "--no-cache"]
    run = subprocess.run(lint, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout


def test_no_module_imports_a_heavy_package_before_it_is_used() -> None:
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in MODULES if path.stem != "__main__"]
    code = f"import {', '.join(names)}, sys; print(' '.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not HEAVY & set(run.stdout.split())


def test_the_names_most_used_come_from_the_package_and_load_nothing_before() -> None:
    code = "import maelib as m, sys; print('torch' in sys.modules, *(getattr(m, name).__name__ for name in m.__all__))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", *maelib.__all__]
    assert not hasattr(maelib, "reconstruct_photo")


def test_every_room_of_the_library_has_a_page_on_the_site() -> None:
    pages = "\n".join(path.read_text() for path in ROOT.glob("docs/library/*.md"))
    rooms = {path.stem for path in (ROOT / "maelib").iterdir() if not path.name.startswith("_")}
    assert {
        name.split(".")[1] for line in re.findall("^modules: (.*)", pages, re.MULTILINE) for name in line.split()
    } == rooms


def total(paths: list[Path]) -> int:
    return sum(map(code_lines, paths))


def test_the_four_core_files_stay_small() -> None:
    assert total([path for name in ("patches", "masking", "model", "losses") for path in files_of(name)]) <= 520


@pytest.mark.xfail(strict=True, reason="about 4,220 lines: detail 340, marking 300, the photo page 210; asked 3,300")
def test_the_library_stays_small() -> None:
    apart = {"facades", "exercises"}
    assert total([path for path in MODULES if not apart & set(path.relative_to(ROOT).parts)]) <= 3300


def test_no_module_outgrows_one_reading() -> None:
    limits = {path: 260 if path.parent.name == "exercises" else 250 for path in MODULES}
    limits[ROOT / "maelib" / "training" / "train.py"] = 130
    lines = {path: code_lines(path) for path in MODULES}
    assert {path.name: lines[path] for path, limit in limits.items() if lines[path] > limit} == {}


def test_the_tests_stay_small() -> None:
    assert total(list((ROOT / "tests").rglob("*.py"))) <= 5000


def test_the_wheel_carries_the_library_the_model_and_a_few_facades(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, capture_output=True, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    library = {str(path.relative_to(ROOT)) for path in (ROOT / "maelib").rglob("*.*") if path.suffix in {".py", ".js"}}
    data = ROOT / "data"
    bundled = [*(data / "checkpoints").glob("*"), *(data / "complete_npy").glob("*0.npy")]
    assert names == library | {f"maelib/_data/{path.relative_to(data)}" for path in bundled}
    assert wheel.stat().st_size < 15e6


# ----------------------------------------------------------------------------------------------------- the README


def fenced(language: str) -> str:
    return "\n".join(re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL))


def test_the_readme_links_to_files_that_exist() -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)\s#]+)[^)\s]*\)|src=\"([^\"]+)\"", README)
    assert not [name for name in (a or b for a, b in links) if not (ROOT / name).exists()]


def test_the_readme_example_draws_the_picture_above_it(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", fenced("python")], cwd=tmp_path, env=environment, check=True)
    drawn, shown = (np.asarray(Image.open(path / "repair.jpg"), float) for path in (tmp_path, ROOT / "data"))
    assert drawn.shape == shown.shape
    assert np.abs(drawn - shown).mean() <= 0.2, "run `make picture`"  # of 255: CPUs round differently
