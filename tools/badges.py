"""Set the repository's address: `python tools/badges.py https://github.com/owner/name`, or `""` for none.

The address goes into pyproject.toml, into every notebook's setup cell and into its badge. Nothing is executed and the
outputs stay. The badges of a fork then open the fork's notebooks in Colab.
"""

import re
import sys
import tomllib

import build
import nbformat

from maelib.files import write_atomic

GITHUB = re.compile(r"(https://github\.com/[A-Za-z0-9][A-Za-z0-9-]*/\w[\w.-]*?)(?:\.git)?/?", re.ASCII)
SECTION = "[project.urls]\n"


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


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print(__doc__)
        return 2
    try:
        address = clean(arguments[0].strip())
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    pyproject = build.ROOT / "pyproject.toml"
    before = pyproject.read_text(encoding="utf-8")
    if (after := with_repository(before, address)) != before:  # a changed file makes `make setup` install again
        write_atomic(pyproject, after.encode())
    for path in build.paths():
        build.save(build.normalise(nbformat.read(path, as_version=4), path), path)
    print(
        f"The address {address} is in {len(build.paths())} notebooks." if address else "No address is set; no badges."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
