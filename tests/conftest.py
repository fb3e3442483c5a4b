"""What tests share: a web server on this machine, skips that say their reason."""

import http.server
import shutil
import threading

import pytest


def stub_environment(folder, **programs):
    """Write programs that do nothing, or run a line of shell, in place of an environment that make has set up."""
    (folder / "bin").mkdir(exist_ok=True)
    for name in ("python", "pip", "jupyter", "maelib", "ruff", "pytest", "lint-imports"):
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{programs.get(name, '')}\n")
        (folder / "bin" / name).chmod(0o755)
    (folder / "ready").touch()


def pytest_runtest_setup(item):
    """Skip a test marked `needs("make", "g++")` where the machine lacks one of these programs."""
    for mark in item.iter_markers("needs"):
        missing = [program for program in mark.args if shutil.which(program) is None]
        if missing:
            pytest.skip(f"not installed: {', '.join(missing)}")


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.files` as `server.faults` say, and notes what was asked for and how many bytes went out."""

    def do_GET(self):
        server, body = self.server, self.server.files.get(self.path, b"")
        first = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        server.asked.append(first)
        fault = server.faults.pop(0) if server.faults else None
        if fault == "ignores range":
            first = 0
        error = fault if isinstance(fault, int) else 404 if not body else 416 if first >= len(body) else None
        if error:
            self.send_error(error)
            return
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(body) - first))
        self.end_headers()
        sent = body[first : first + 100_000] if fault == "cut" else body[first:]
        self.wfile.write(sent)
        server.sent += len(sent)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.files, server.faults, server.asked, server.sent = {}, [], [], 0
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="session")
def facades(tmp_path_factory):
    """A folder of facades that tests only read. A third has black corners, so that masks hide unequal numbers."""
    from tiny import fill_folder

    return fill_folder(tmp_path_factory.mktemp("facades"), 33, corners=True)


@pytest.fixture
def out_of_reach(monkeypatch, tmp_path):
    """An empty cache, and no package index from which pip could fetch weights."""
    monkeypatch.setenv("MAELIB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")


@pytest.fixture(scope="module")
def browser():
    """Chromium, driven by Playwright; a test that needs it is skipped where either is missing."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("not installed: Chromium")
    with pytest.importorskip("playwright.sync_api").sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
