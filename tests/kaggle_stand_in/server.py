"""The stand-in as a server on the loopback, and the wall around it.

The client is unmodified: KAGGLE_API_ENVIRONMENT=LOCALHOST sends it to http://localhost, and `http_proxy` sends that to
the stand-in's port, so that requests arrive with their whole address. `https_proxy` leads there as well: whoever dials
the real Kaggle reaches the stand-in, which refuses and remembers it. In this process and in those that a test starts,
`socket` refuses every address that is not of the loopback.
"""

import contextlib
import os
import pathlib
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from kaggle_stand_in.faults import FaultyKaggle
from kaggle_stand_in.kaggle import KEY, USER

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROXIES = ("http_proxy", "https_proxy", "all_proxy")

WALL = """\
import socket

real_connect, real_connect_ex, real_resolve = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo


def is_loopback(host):
    return host in (None, "", "localhost", "::1") or str(host).startswith("127.")


def check(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and not is_loopback(address[0]):
        raise ConnectionRefusedError(f"the wall: {address}")


def connect(self, address):
    check(self, address)
    return real_connect(self, address)


def connect_ex(self, address):
    check(self, address)
    return real_connect_ex(self, address)


def getaddrinfo(host, *more, **named):
    if not is_loopback(host):
        raise socket.gaierror(f"the wall: {host}")
    return real_resolve(host, *more, **named)
"""


class StandIn(FaultyKaggle):
    """A small Kaggle on a port of this machine."""

    def __init__(self):
        super().__init__()
        self.released = threading.Event()  # lets go what hangs, at the end of a test
        self.reached = threading.Event()  # set when a request hangs
        self.server = Server(("127.0.0.1", 0), type("Bound", (Handler,), {"stand_in": self}))
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self):
        self.released.set()
        self.server.shutdown()
        self.server.server_close()

    def environment(self, home) -> dict:
        """The variables that force everything here; for this process and for those that a test starts."""
        proxy = f"http://127.0.0.1:{self.port}"
        modules = os.pathsep.join([str(pathlib.Path(home) / "wall"), str(ROOT)])
        names = {name: proxy for lower in PROXIES for name in (lower, lower.upper())}
        return {
            **names, "NO_PROXY": "", "no_proxy": "", "HOME": str(home), "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
            "KAGGLE_USERNAME": USER, "KAGGLE_KEY": KEY, "PYTHONPATH": modules,
            "XDG_CONFIG_HOME": str(pathlib.Path(home) / ".config"), "PYTHONUNBUFFERED": "1",
        }  # fmt: skip


class Server(ThreadingHTTPServer):
    """A server that does not mind a client which hangs up, as one does that has read enough or is killed."""

    def handle_error(self, request, client_address):
        """Says in the tests' output what went wrong in the stand-in itself."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    stand_in: StandIn

    def log_message(self, *_):
        pass

    def setup(self):
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def do_CONNECT(self):
        self.stand_in.escapes.append(self.path)
        self.send(403, b"no way out", {"Content-Type": "text/plain"})

    def do_GET(self):
        self.serve("GET")

    def do_POST(self):
        self.serve("POST")

    def do_PUT(self):
        self.serve("PUT")

    def serve(self, verb):
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        reply = self.stand_in.exchange(verb, self.path, self.headers, content)
        if reply.ending in ("cut", "hang"):
            if reply.ending == "hang":
                self.stand_in.reached.set()
                self.stand_in.released.wait(30)
        else:
            half = reply.body[: len(reply.body) // 2] if reply.ending == "half" else reply.body
            self.send(reply.status, half, {**reply.headers, "Content-Length": len(reply.body)})
        if reply.ending:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

    def send(self, status, body, headers):
        with contextlib.suppress(OSError):
            self.send_response(status)
            for name, value in {"Content-Length": len(body), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()


def put_up_wall(monkeypatch):
    names = {}
    exec(WALL, names)
    monkeypatch.setattr(socket.socket, "connect", names["connect"])
    monkeypatch.setattr(socket.socket, "connect_ex", names["connect_ex"])
    monkeypatch.setattr(socket, "getaddrinfo", names["getaddrinfo"])
