"""`maelib ui`: the `PhotoPainter` in the browser, for whoever has no notebook.

Tornado, which also serves Jupyter, serves one page on this computer alone. The page shows `photo_painter.js` and hands
its messages on through a web socket (`photo_page.js`), so that nothing is written twice. Each message is two frames: a
JSON text, then bytes.
"""

import asyncio
import hmac
import json
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any

import numpy as np
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, HTTPError, RequestHandler
from tornado.websocket import WebSocketHandler

from maelib.course.photo_painter import PART, PhotoPainter
from maelib.model import MaskedAutoencoder

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Repair a photo</title><link rel="icon" href="data:,"><script type="module" src="photo_page.js?token={}"></script>
"""


class _Guarded(RequestHandler):
    """Refuses whoever does not know the token. Tornado itself refuses web sockets that other sites open."""

    def prepare(self) -> None:
        if not hmac.compare_digest(self.get_query_argument("token", "").encode(), self.settings["token"].encode()):
            raise HTTPError(403)

    def set_default_headers(self) -> None:
        self.set_header("Cache-Control", "no-store")
        self.set_header("Content-Security-Policy", "frame-ancestors 'none'")
        self.set_header("Referrer-Policy", "no-referrer")


class _Page(_Guarded):
    def get(self) -> None:
        self.finish(PAGE.format(self.settings["token"]))


class _Script(_Guarded):
    def get(self, name: str) -> None:
        self.set_header("Content-Type", "text/javascript; charset=utf-8")
        self.finish(Path(__file__).with_name(name).read_bytes())


class _Socket(_Guarded, WebSocketHandler):
    def open(self, *args: str, **kwargs: str) -> None:
        self.settings["painter"].socket = self

    def on_message(self, message: str | bytes) -> None:
        if isinstance(message, str):
            self.content = json.loads(message)
        elif self.content["do"] == "end":
            self.settings["ended"].set()
        else:
            self.settings["steps"].put((None, self.content, [message] if message else []))


class _PagePainter(PhotoPainter):
    """A `PhotoPainter` that sends to the page that was opened last, from another thread than the server's `loop`."""

    loop: asyncio.AbstractEventLoop
    socket: WebSocketHandler | None = None

    def send(self, content: dict[str, Any], buffers: Sequence[bytes] | None = None) -> None:
        self.loop.call_soon_threadsafe(self._write, json.dumps(content), b"".join(buffers or []))

    def _write(self, text: str, data: bytes) -> None:
        if self.socket is not None and self.socket.ws_connection is not None:
            self.socket.write_message(text)
            self.socket.write_message(data, binary=True)


def serve(model: MaskedAutoencoder, photo: Path | np.ndarray | None, announce: Callable[[str], object]) -> None:
    """Serve the page until its button "Done" is pressed.

    Parameters
    ----------
    model, photo
        As in `PhotoPainter`.
    announce : callable
        Is given the page's address, whose token nobody else knows, once the page is there.

    Raises
    ------
    PhotoError
        When `photo` cannot be read.
    """
    painter, steps, ended, token = _PagePainter(model, photo), SimpleQueue(), Event(), secrets.token_urlsafe()
    app = Application(painter=painter, steps=steps, ended=ended, token=token, websocket_max_message_size=2 * PART)
    pages = [("/", _Page), (r"/(photo_\w+\.js)", _Script), ("/socket", _Socket)]
    app.add_handlers(r"127\.0\.0\.1", pages)  # under any other name of a host there is nothing
    sockets, painter.loop = bind_sockets(0, "127.0.0.1"), asyncio.new_event_loop()

    async def start() -> None:
        HTTPServer(app).add_sockets(sockets)

    def stop() -> None:
        if painter.socket is not None:
            painter.socket.close()
        painter.loop.stop()

    server = Thread(target=painter.loop.run_forever, daemon=True)
    server.start()
    asyncio.run_coroutine_threadsafe(start(), painter.loop).result()
    announce(f"http://127.0.0.1:{sockets[0].getsockname()[1]}/?token={token}")
    try:
        while not ended.is_set():
            with suppress(Empty):
                painter.receive(*steps.get(timeout=0.5))  # Windows hears Ctrl-C between two waits only
    finally:
        painter.loop.call_soon_threadsafe(stop)
        server.join()
