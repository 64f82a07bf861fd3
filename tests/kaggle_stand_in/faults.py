"""Requests to the stand-in, and what goes wrong with them by rule: before the deed, after it, or in the answer."""

import base64
import hashlib
import json
import re
import urllib.parse
from dataclasses import dataclass, field

from kaggle_stand_in.kaggle import KEY, USER, Kaggle

BEFORE = ("http", "html", "cut", "hang", "answer", "bytes")  # kinds of faults by which nothing is done
PAGE = b"<html><title>Kaggle</title>Our servers are having a moment</html>"


@dataclass
class Reply:
    """An answer, and how the connection ends: "" (well), "cut", "hang", or "half": half of the body came."""

    status: int = 200
    body: bytes = b""
    headers: dict = field(default_factory=dict)
    ending: str = ""


class FaultyKaggle(Kaggle):
    """A small Kaggle behind a network.

    Attributes:
        requests: [(method, headers, body)] of all requests, in order; method is such as "SaveKernel" or "GET /files/x".
        escapes: addresses elsewhere that somebody tried to reach.
    """

    def __init__(self):
        super().__init__()
        self.requests, self.escapes, self.faults = [], [], []

    def fault(self, method, kind, times=1, after=0, **how):
        """Makes the next `times` requests of a method go wrong, but for the first ones.

        Args:
            after: how many go well before.
            method: such as "SaveKernel", or a regular expression for "GET /files/...".
            kind: "http" (status, message, headers), "html" (status), "cut", "hang", "answer" (body, an object), "bytes"
                (body, as it is): nothing is done; or one of these with "_after": it is done.
        """
        self.faults.append({"method": method, "kind": kind, "times": times, "after": after, **how})

    def calls(self, method) -> list[dict]:
        return [body for name, _, body in self.requests if name == method]

    def exchange(self, verb, url, headers, content) -> Reply:
        """What comes back of a request."""
        address = urllib.parse.urlsplit(url)
        if address.hostname not in ("localhost", None):
            self.escapes.append(url)
            return Reply(403, b"no way out", {"Content-Type": "text/plain"})
        path = urllib.parse.unquote(address.path)
        is_api = verb == "POST"
        name = path.rpartition("/")[2] if is_api else f"{verb} {path}"
        body = json.loads(content or b"{}") if is_api else {"query": address.query, "bytes": len(content)}
        self.requests.append((name, dict(headers), body))
        fault = self.next_fault(name)
        if fault and fault["kind"] in BEFORE:
            return failure(fault)
        if is_api:
            if not self.is_signed_in(headers) and name not in ("IntrospectToken", "GenerateAccessToken"):
                return in_json(401, {"code": 401, "message": "Unauthenticated"})
            status, answer = self.answer(name, body)
            reply = Reply(302, b"", {"Location": answer["location"]}) if status == 302 else in_json(status, answer)
        elif path.startswith("/upload/"):
            self.blobs[path.removeprefix("/upload/")]["data"] = content
            reply = in_json(200, {})
        elif path.startswith("/api/v1/kernels/logs/stream/"):
            reply = self.stream(path)
        else:
            reply = self.file(path, headers)
            if fault and reply.status < 300:  # the first half comes
                reply.ending = "half"
                return reply
        return failure(fault) if fault else reply

    def is_signed_in(self, headers):
        basic = base64.b64encode(f"{USER}:{KEY}".encode()).decode()
        return headers.get("Authorization") in (f"Basic {basic}", f"Bearer {self.token}")

    def next_fault(self, name):
        with self.lock:
            for fault in self.faults:
                if fault["times"] and re.fullmatch(fault["method"], name):
                    if fault["after"]:
                        fault["after"] -= 1
                        continue
                    fault["times"] -= 1
                    return fault
        return None

    def stream(self, path) -> Reply:
        versions = self.kernels.get(path.removeprefix("/api/v1/kernels/logs/stream/"))
        events = versions[-1]["live"] if versions else ""
        data = json.dumps({"stream_name": "stdout", "time": 1.0, "data": events})
        lines = f"data: {data}\n\n" if events else ""
        return Reply(200, lines.encode() + b"data: END_OF_LOG\n\n", {"Content-Type": "text/event-stream"})

    def file(self, path, headers) -> Reply:
        body = self.files.get(path.removeprefix("/files/"))
        if isinstance(body, list):
            body = body.pop(0) if len(body) > 1 else body[0]
        if body is None:
            return Reply(403, b"<Error><Code>ExpiredToken</Code></Error>", {"Content-Type": "application/xml"})
        tag = f'"{hashlib.md5(body).hexdigest()}"'
        more = {"Content-Type": "application/octet-stream", "ETag": tag, "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-", headers.get("Range") or "")
        if wanted and headers.get("If-Range") in (None, tag):
            return Reply(206, body[int(wanted[1]) :], more)
        return Reply(200, body, more)


def failure(fault) -> Reply:
    """What comes back of a request that goes wrong."""
    kind = fault["kind"].removesuffix("_after")
    if kind == "http":
        status = fault["status"]
        answer = {"code": status, "message": fault.get("message", f"the stand-in says {status}")}
        return in_json(status, answer, fault.get("headers"))
    if kind == "html":
        return Reply(fault.get("status", 200), PAGE, {"Content-Type": "text/html"})
    if kind == "answer":
        return in_json(200, fault["body"])
    if kind == "bytes":
        return Reply(200, fault["body"], {"Content-Type": "application/json"})
    return Reply(ending=kind)


def in_json(status, answer, headers=None) -> Reply:
    return Reply(status, json.dumps(answer).encode(), {"Content-Type": "application/json", **(headers or {})})
