"""The web site: built without a warning, opened from disk in a real browser, whole without any other host."""

import html
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[1]
SITE = ROOT / "dist" / "site"
BUILDABLE = importlib.util.find_spec("sphinx_book_theme")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not BUILDABLE, reason="not installed: `docs`; run `make site`")]
FAULTS = """axe.run({resultTypes: ["violations"]}).then(({violations}) => violations.filter(({impact}) =>
    ["serious", "critical"].includes(impact)).map(({help, nodes}) => `${help}: ${nodes[0].html}`))"""


@pytest.fixture(scope="module")
def pages() -> list[Path]:
    subprocess.run(["make", "site", "--old-file=setup", f"VENV={sys.prefix}"], cwd=ROOT, check=True)
    return sorted({*SITE.rglob("*.html")} - {SITE / "index.html", *SITE.rglob("_static/**/*.html")})


@pytest.mark.needs("make")
def test_every_link_inside_leads_somewhere(pages: list[Path]) -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in pages}
    names = {path: set(re.findall(r'\b(?:id|name)="([^"]+)"', text)) for path, text in texts.items()}
    dead = []
    for path, text in texts.items():
        for link in set(re.findall(r'<(?:a|img|script)\b[^>]*?\b(?:href|src)="([^"]+)"', text)):
            url = urlsplit(html.unescape(link))
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            lost = url.fragment and unquote(url.fragment) not in names.get(target, [url.fragment])
            if not (url.scheme or url.netloc) and (lost or not target.is_file()):
                dead.append(f"{path.relative_to(SITE)}: {link}")
    assert not dead


@pytest.mark.needs("make")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_ask_no_other_host_name_their_pictures_and_pass_axe(pages: list[Path], browser, scheme: str) -> None:
    axe = ROOT / "dist" / "axe" / "node_modules" / "axe-core" / "axe.min.js"
    if not axe.exists():
        shutil.which("npm") and subprocess.run(["npm", "install", "--prefix", axe.parents[2], "axe-core"], check=False)
    asked, unnamed, faults = [], [], []
    tab = browser.new_context(color_scheme=scheme).new_page()
    tab.on("request", lambda request: asked.append(request.url))
    for path in pages:
        tab.goto(path.as_uri())
        unnamed += [path] * tab.evaluate("[...document.images].filter((image) => !image.alt.trim()).length")
        if axe.exists() and path.parent.name != "print":  # the same pages again
            tab.evaluate(axe.read_text(encoding="utf-8"))
            faults += [f"{path.relative_to(SITE)}: {fault}" for fault in tab.evaluate(FAULTS)]
    tab.goto((SITE / "docs" / "index.html").as_uri())
    tab.focus(".compare input")
    tab.keyboard.press("End")
    assert tab.locator(".compare").evaluate("(element) => element.style.getPropertyValue('--share')") == "100%"
    assert not [url for url in asked if not url.startswith(("file:", "data:"))]
    assert not unnamed
    assert not faults
    if not axe.exists():
        pytest.skip("axe-core could not be fetched: no serious fault was looked for")
