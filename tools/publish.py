"""Set the repository's address: `python tools/publish.py https://github.com/owner/name`, or `""` for none.

The address goes into pyproject.toml, from where the web site takes it, into CITATION.cff, into the README's paragraph
for visitors, and into the setup cell and the badge of every notebook. Nothing is executed and the outputs stay. The
badges of a fork then open the fork's notebooks in Colab.
"""

import re
import sys
import tomllib

import build
import nbformat

from maelib.files import write_atomic

GITHUB = re.compile(r"(https://github\.com/[A-Za-z0-9][A-Za-z0-9-]*/\w[\w.-]*?)(?:\.git)?/?", re.ASCII)
SECTION = "[project.urls]\n"
VISITORS = re.compile(r"^\*\*Without a clone\.\*\* .*?\n(?=\n)", re.MULTILINE | re.DOTALL)
UNPUBLISHED = """\
**Without a clone.** This copy has no address on the web yet. You can read the lessons with all their figures in the
folder [notebooks](notebooks). To run one in Colab, upload it there together with the wheel that `make wheel` builds.
Whoever puts the repository on GitHub runs `make publish REPO=https://github.com/owner/name` once and commits: then a
badge opens each notebook in Colab, and this paragraph leads to the web site and to Binder.
"""
PUBLISHED = """\
**Without a clone.** Read the lessons on the [web site]({site}). Run them
[on Binder](https://mybinder.org/v2/gh/{place}/main?urlpath=lab/tree/notebooks/00_start_here.ipynb), which needs no
account, or in Colab, by the badge under each notebook's title. A fork runs
`make publish REPO=https://github.com/owner/name` for its own address; `REPO=` takes the address away.
"""


def clean(repository: str) -> str:
    """The address without `.git` or a slash at the end; an empty one stays empty.

    Raises
    ------
    ValueError
        When it is not the web address of a GitHub repository; Colab opens notebooks from GitHub only.
    """
    if not repository:
        return ""
    match = GITHUB.fullmatch(repository)
    if match is None:
        raise ValueError(
            f"{repository!r} is not the web address of a GitHub repository; use https://github.com/owner/name"
        )
    return match[1]


def with_repository(pyproject: str, address: str) -> str:
    """The text of pyproject.toml with `address` as the project's repository, or with none when it is empty."""
    text = re.sub(r"^Repository = .*\n", "", pyproject, flags=re.MULTILINE)
    if address and SECTION not in text:
        text = text.replace("[project.scripts]\n", f"{SECTION}\n[project.scripts]\n")
    if address:
        text = text.replace(SECTION, f'{SECTION}Repository = "{address}"\n')
    else:
        text = re.sub(r"^\[project\.urls\]\n\n", "", text, flags=re.MULTILINE)
    assert tomllib.loads(text)["project"].get("urls", {}).get("Repository", "") == address
    return text


def with_address(citation: str, address: str, site: str) -> str:
    """The text of CITATION.cff with the addresses of repository and web site, or with none when they are empty."""
    text = re.sub(r"^(repository-code|url): .*\n", "", citation, flags=re.MULTILINE)
    return f"{text}repository-code: {address}\nurl: {site}\n" if address else text


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print(__doc__)
        return 2
    try:
        address = clean(arguments[0].strip())
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    place = address.removeprefix("https://github.com/")
    site = "https://{}.github.io/{}/".format(*place.split("/")) if place else ""
    visitors = PUBLISHED.format(place=place, site=site) if place else UNPUBLISHED
    changes = {
        "pyproject.toml": lambda text: with_repository(text, address),
        "CITATION.cff": lambda text: with_address(text, address, site),
        "README.md": lambda text: VISITORS.sub(lambda _: visitors, text),
    }
    for name, change in changes.items():
        before = (build.ROOT / name).read_text(encoding="utf-8")
        if (after := change(before)) != before:  # `make setup` installs again when pyproject.toml changes
            write_atomic(build.ROOT / name, after.encode())
    for path in build.paths():
        build.save(build.normalise(nbformat.read(path, as_version=4), path), path)
    print(
        f"The address {address} is in {len(build.paths())} notebooks." if address else "No address is set; no badges."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
