"""The web site's settings; `make site` builds it from the repository's root, so that links work here as on GitHub.

Nothing is executed: lessons show the outputs that are committed. Nothing is fetched by a reader's browser either:
mathematics becomes MathML while building, and theme and `ziamath` bring the fonts.
"""

import re
import sys
import tomllib
from pathlib import Path

import nbformat
import ziamath
from docutils import nodes
from latex2mathml.converter import convert
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell
from sphinx.application import Sphinx

ROOT = Path(__file__).absolute().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

import build  # noqa: E402  (found through the path set above)

project = "Repair a torn facade"
author = "The Facade MAE course authors"
version = release = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
language = "en"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_revealjs"]
root_doc = "docs/index"
ONE_PAGE, SLIDES = tags.has("one_page"), tags.has("slides")  # noqa: F821  (Sphinx puts `tags` here)
include_patterns = ["docs/**.md", "notebooks/**.ipynb", "benchmarks/results/*.md", "data/**.md", "*.md"]
if SLIDES:
    include_patterns = ["docs/index.md", "notebooks/*.ipynb"]
exclude_patterns = ["README.md", ".*", "dist", "runs", "**/.ipynb_checkpoints"]

myst_enable_extensions = ["dollarmath", "deflist", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js = {}  # the outputs hold no widgets, whose script lies on another host
default_role = "code"
autodoc_default_options = {"members": True, "member-order": "bysource", "ignore-module-all": True}
autodoc_typehints = "signature"
napoleon_use_ivar = True
html_math_renderer = "mathml"

html_theme = "basic" if ONE_PAGE else "sphinx_book_theme"
html_title = project
html_copy_source = not (ONE_PAGE or SLIDES)
html_static_path = ["_static", str(Path(ziamath.__file__).parent / "fonts" / "STIXTwoMath-Regular.ttf")]
html_css_files = ["site.css"]
html_extra_path = [] if ONE_PAGE or SLIDES else ["_root"]
html_js_files = [("site.js", {"defer": "defer"})]
html_sourcelink_suffix = ""
LAUNCH = {"binderhub_url": "https://mybinder.org", "colab_url": build.COLAB}
if ONE_PAGE:
    html_sidebars = {"**": []}
    html_use_index = html_domain_indices = False
else:
    html_theme_options = {
        "repository_url": build.address(),
        "use_repository_button": bool(build.address()),
        "path_to_docs": "",
        "repository_branch": "main",
        "launch_buttons": LAUNCH if build.address() else {},
        "navbar_persistent": [],  # the search stands in the sidebar already
    }
revealjs_style_theme = "white"
revealjs_static_path = ["_static"]
revealjs_css_files = ["slides.css"]


def mathml(translator, node: nodes.Element) -> None:
    """Write an equation as MathML, which browsers draw without a script."""
    block = isinstance(node, nodes.math_block)
    text = convert(node.astext(), display="block" if block else "inline")
    bars = "&#x02016;"  # those of a norm, which would grow to the height of the fraction before them
    translator.body.append(text.replace(f"<mo>{bars}", f'<mo stretchy="false">{bars}'))
    raise nodes.SkipNode


def list_modules(match: re.Match) -> str:
    """The lines that document what a room's page names: modules, and packages with their modules."""
    names = []
    for name in match[1].split():
        files = sorted((ROOT / name.replace(".", "/")).glob("[!_]*.py"))
        names += [name, *(f"{name}.{file.stem}" for file in files)]
    return "\n".join(f"## {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n```\n" for name in names)


BREAK = "```{revealjs-break}\n```\n\n"  # one slide more under the same heading


def as_slides(notebook: NotebookNode) -> NotebookNode:
    """A lesson as slides: each section with its first paragraph, its figures with their words, its predictions."""
    slides = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and cell.source.startswith(("# ", "## ")):
            text = "\n\n".join(cell.source.split("\n\n")[:2])
            slides.append(re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", text))  # what links lead to has no slides
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "<figure" in data.get("text/html", ""):
                slides.append(f"{BREAK}```{{raw}} html\n{data['text/html']}\n```")
            elif data.get("text/plain", "").startswith("Predict "):
                slides.append(BREAK + data["text/plain"].replace("\n  ( )", "\n\n-"))
    notebook.cells = [new_markdown_cell(text) for text in slides]
    notebook.metadata["orphan"] = True
    return notebook


def read(app: Sphinx, docname: str, source: list[str]) -> None:
    """Prepare a page before it is parsed; the files stay as they are."""
    if SLIDES and docname == root_doc:
        lessons = sorted(path.name for path in ROOT.glob("notebooks/*.ipynb"))
        source[0] = "\n".join(["# Slides\n", *(f"- [](../notebooks/{name})" for name in lessons)])
    elif docname.startswith("docs/library/"):
        source[0] = re.sub(r"^modules: (.*)$", list_modules, source[0], flags=re.MULTILINE)
    elif docname.startswith("notebooks/"):
        notebook = nbformat.reads(source[0], as_version=4)
        notebook.cells[0].source = build.ANY_BADGE.sub("", notebook.cells[0].source)
        if SLIDES:
            notebook = as_slides(notebook)
        elif not ONE_PAGE and "solutions" not in docname:
            notebook.cells[0].source += f'\n\n<a href="../slides/{docname}.html">This lesson as slides</a>'
        source[0] = nbformat.writes(notebook)


def keep_whole(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Put back before a colon what napoleon has taken out of a field's description, as if it were the field's type."""
    if what == "attribute" and lines and lines[-1].startswith(":type: "):
        lines[0] = f"{lines.pop().removeprefix(':type: ')}: {lines[0]}"


def setup(app: Sphinx) -> None:
    app.add_html_math_renderer("mathml", inline_renderers=(mathml, None), block_renderers=(mathml, None))
    app.connect("source-read", read)
    app.connect("autodoc-process-docstring", keep_whole, priority=600)  # after napoleon
