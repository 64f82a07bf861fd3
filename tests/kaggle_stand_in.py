"""A stand-in for Kaggle's API on the loopback, for the real client to talk to; and the wall around it.

The client is unmodified: KAGGLE_API_ENVIRONMENT=LOCALHOST sends it to http://localhost, and `http_proxy` sends that to
the stand-in's port, so that requests arrive with their whole address. `https_proxy` leads there as well: whoever dials
the real Kaggle reaches the stand-in, which refuses and remembers it. In this process and in those that a test starts,
`socket` refuses every address that is not of the loopback.

A test takes the fixture by `stand_in = kaggle_stand_in.stand_in`.
"""

import ast
import base64
import contextlib
import hashlib
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
USER, KEY = "tester", "planted-secret-0123456789abcdef"
COMPETITION = "tgs-salt-identification-challenge"
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
SOURCES = ("datasetDataSources", "competitionDataSources", "kernelDataSources", "modelDataSources")

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


class StandIn:
    """A small Kaggle. Everything in it may be looked at and changed by a test.

    Attributes:
        requests: [(method, headers, body)] of all requests, in order; method is such as "SaveKernel" or "GET /files/x".
        escapes: addresses elsewhere that somebody tried to reach.
        kernels: {"owner/slug": [version, ...]}, each {source, request, states, message, files, log}. `states` is what
            the status says, one after the other; the last one stays.
        files: {name in an address: bytes, or a list of them for one request after the other}.
    """

    def __init__(self):
        self.requests, self.escapes, self.faults = [], [], []
        self.kernels, self.files = {}, {}
        self.honours_versions = True
        self.quota = {"timeUsed": "3600s", "totalTimeAllowed": "108000s"}
        self.competitions = {COMPETITION: {}}
        self.datasets, self.blobs, self.submissions = {}, {}, []
        self.submissions_left = 5
        self.accepted_rules = True
        self.next_states = ["QUEUED", "RUNNING", "COMPLETE"]  # of the run that a push starts
        self.next_scores = ["PENDING", "COMPLETE"]
        self.sessions = 2  # with a GPU that may run at once
        self.on_push = None  # called with the new version
        self.released = threading.Event()  # lets go what hangs, at the end of a test
        self.reached = threading.Event()  # set when a request hangs
        self.lock = threading.RLock()
        self.server = Server(("127.0.0.1", 0), type("Bound", (Handler,), {"stand_in": self}))
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self):
        self.released.set()
        self.server.shutdown()
        self.server.server_close()

    # what a test asks for

    def fault(self, method, kind, times=1, after=0, **how):
        """Makes the next `times` requests of a method go wrong, but for the first ones.

        Args:
            after: how many go well before.
            method: such as "SaveKernel", or a regular expression for "GET /files/...".
            kind: "http" (status, message, headers), "html" (status), "cut" (before Kaggle acts), "cut_after",
                "hang", "hang_after", "answer" (body): an answer without any deed, "bytes" (body): the same, as it is.
        """
        self.faults.append({"method": method, "kind": kind, "times": times, "after": after, **how})

    def calls(self, method) -> list[dict]:
        return [body for name, _, body in self.requests if name == method]

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

    def url(self, name, body) -> str:
        """The signed address of a file."""
        self.files[name] = body
        return f"http://localhost/files/{urllib.parse.quote(name)}?signature=planted-signature"

    def add_version(self, ref, source="", request=None, states=None, message="", files=None, log=""):
        versions = self.kernels.setdefault(ref, [])
        version = {
            "number": len(versions) + 1, "source": source, "request": request or {}, "message": message,
            "states": list(states or self.next_states), "files": dict(files or {}), "log": log, "live": "",
        }  # fmt: skip
        versions.append(version)
        return version

    def leave_output(self, version, files, log="done\n"):
        """What a run has written: {name: bytes}, and its log."""
        version["files"] = dict(files)
        version["log"] = json.dumps([{"stream_name": "stdout", "time": 61.5, "data": log}])

    # what a request does

    def answer(self, name, body):
        method = getattr(self, "do_" + re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower(), None)
        if method is None:
            return 404, {"code": 404, "message": f"the stand-in has no {name}"}
        with self.lock:
            found = method(body)
        return found if isinstance(found, tuple) else (200, found)

    def do_introspect_token(self, body):
        return {"active": body["token"] == "good-token", "username": USER}

    def do_get_accelerator_quota_statistics(self, body):
        return {"quotaRefreshTime": "2026-11-28T00:00:00Z", "gpuQuota": self.quota, "tpuQuota": self.quota}

    def do_save_kernel(self, body):
        versions = [version for found in self.kernels.values() for version in found]
        active = [version for version in versions if version["request"].get("enableGpu") and is_active(version)]
        if body.get("enableGpu") and len(active) >= self.sessions:
            return {"error": f"Maximum batch GPU session count of {self.sessions} reached."}
        version = self.add_version(body["slug"], body["text"], body)
        if self.on_push:
            self.on_push(version)
        number, ref = version["number"], body["slug"]
        return {"ref": ref, "url": f"https://www.kaggle.com/code/{ref}", "versionNumber": number, "kernelId": 7}

    def version_of(self, body):
        versions = self.kernels.get(f"{body['userName']}/{body['kernelSlug']}")
        if not versions:
            return None
        label = body.get("versionLabel")
        if label and self.honours_versions:
            number = int(label[1:]) if re.fullmatch(r"v\d+", label) else 0
            return versions[number - 1] if 0 < number <= len(versions) else None
        return versions[-1]

    def do_get_kernel(self, body):
        version = self.version_of(body)
        if version is None:
            return missing("kernel")
        ref = f"{body['userName']}/{body['kernelSlug']}"
        shown = {name: version["request"][name] for name in SOURCES if name in version["request"]}
        shown |= {"ref": ref, "currentVersionNumber": len(self.kernels[ref])}
        return {"metadata": shown, "blob": {"source": version["source"]}}

    def do_list_kernels(self, body):
        """The kernels with a version that a push made; what a test adds has no accelerator of its own."""
        newest = {ref: versions[-1]["request"] for ref, versions in self.kernels.items()}
        return {"kernels": [{"ref": ref, "enableGpu": made.get("enableGpu", False)} for ref, made in newest.items()]}

    def do_get_kernel_session_status(self, body):
        version = self.version_of(body)
        if version is None:
            return missing("kernel session")
        states = version["states"]
        state = states.pop(0) if len(states) > 1 else states[0]
        return {"status": state, "failureMessage": version["message"] if state not in ("QUEUED", "RUNNING") else ""}

    def do_list_kernel_session_output(self, body):
        version = self.version_of(body)
        if version is None:
            return missing("kernel session")
        names = list(version["files"])
        first, size = int(body.get("pageToken") or 0), min(body.get("pageSize", 20), 200)
        page = [
            {"fileName": name, "url": self.url(f"{version['number']}/{name}", version["files"][name])}
            for name in names[first : first + size]
        ]
        more = str(first + size) if first + size < len(names) else ""
        return {"files": page, "log": version["log"], "nextPageToken": more}

    def do_list_data_files(self, body):
        files = self.competitions.get(body["competitionName"])
        if files is None:
            return missing("competition")
        if not self.accepted_rules:
            return 403, {"code": 403, "message": "You must accept this competition's rules before you can continue"}
        return {"files": [{"name": name, "totalBytes": len(content)} for name, content in files.items()]}

    def do_download_data_file(self, body):
        if not self.accepted_rules:
            return 403, {"code": 403, "message": "You must accept this competition's rules before you can continue"}
        name = body["fileName"]
        return 302, {"location": self.url(f"data/{name}", self.competitions[body["competitionName"]][name])}

    def do_get_dataset_status(self, body):
        found = self.datasets.get(f"{body['ownerSlug']}/{body['datasetSlug']}")
        if found is None:
            return missing("dataset")
        states = found["states"]
        return {"status": states.pop(0) if len(states) > 1 else states[0]}

    def do_list_dataset_files(self, body):
        found = self.datasets[f"{body['ownerSlug']}/{body['datasetSlug']}"]
        return {"datasetFiles": [{"name": name, "totalBytes": len(data)} for name, data in found["files"].items()]}

    def do_download_dataset(self, body):
        found = self.datasets[f"{body['ownerSlug']}/{body['datasetSlug']}"]
        return 302, {"location": self.url(f"dataset/{body['fileName']}", found["files"][body["fileName"]])}

    def do_start_blob_upload(self, body):
        return self.start_upload(body["name"])

    def do_start_submission_upload(self, body):
        return self.start_upload(body["fileName"])

    def start_upload(self, name):
        token = f"blob-{len(self.blobs)}"
        self.blobs[token] = {"name": name, "data": None}
        return {"token": token, "createUrl": f"http://localhost/upload/{token}?signature=planted-signature"}

    def do_create_dataset(self, body):
        return self.save_dataset(f"{body['ownerSlug']}/{body['slug']}", body["files"])

    def do_create_dataset_version(self, body):
        return self.save_dataset(f"{body['ownerSlug']}/{body['datasetSlug']}", body["body"]["files"])

    def save_dataset(self, ref, files):
        blobs = [self.blobs[file["token"]] for file in files]
        kept = {blob["name"]: blob["data"] for blob in blobs if blob["data"] is not None}
        self.datasets[ref] = {"files": kept, "states": ["BLOBS_RECEIVED", "READY"]}
        return {"ref": ref, "url": f"https://www.kaggle.com/datasets/{ref}", "status": "ok"}

    def do_get_submission_limits(self, body):
        return {"numToday": 5 - self.submissions_left, "numTotal": 0, "numAllowedNow": self.submissions_left}

    def do_create_submission(self, body):
        blob = self.blobs[body["blobFileTokens"]]
        if blob["data"] is None:
            return 400, {"code": 400, "message": "Submission file is empty"}
        ref = 4000 + len(self.submissions)
        self.submissions.append({
            "ref": ref, "description": body.get("submissionDescription", ""), "states": list(self.next_scores),
            "data": blob["data"], "publicScore": "0.78543", "privateScore": "0.80123",
        })  # fmt: skip
        return {"message": "Successfully submitted to TGS Salt Identification Challenge", "ref": ref}

    def shown_submission(self, one):
        states = one["states"]
        state = states.pop(0) if len(states) > 1 else states[0]
        scores = {name: one[name] if state == "COMPLETE" else "" for name in ("publicScore", "privateScore")}
        error = "Evaluation metric raised an unexpected error" if state == "ERROR" else ""
        shown = {"ref": one["ref"], "description": one["description"], "status": state, "errorDescription": error}
        return {**shown, **scores, "date": "2026-11-22T17:00:00Z", "fileName": "submission.csv"}

    def do_get_submission(self, body):
        found = [one for one in self.submissions if one["ref"] == body["ref"]]
        return self.shown_submission(found[0]) if found else missing("submission")

    def do_list_submissions(self, body):
        return {"submissions": [self.shown_submission(one) for one in reversed(self.submissions)]}


def is_active(version) -> bool:
    return version["states"][0] in ("QUEUED", "RUNNING", "CANCEL_REQUESTED")


def missing(what):
    return 404, {"code": 404, "message": f"No such {what}"}


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
        address = urllib.parse.urlsplit(self.path)
        if address.hostname not in ("localhost", None):
            self.stand_in.escapes.append(self.path)
            return self.send(403, b"no way out", {"Content-Type": "text/plain"})
        path = urllib.parse.unquote(address.path)
        is_api = verb == "POST"
        name = path.rpartition("/")[2] if is_api else f"{verb} {path}"
        body = json.loads(content or b"{}") if is_api else {"query": address.query, "bytes": len(content)}
        self.stand_in.requests.append((name, dict(self.headers), body))
        fault = self.next_fault(name)
        if fault and fault["kind"] in ("http", "html", "cut", "hang", "answer", "bytes"):
            return self.fail(fault)
        if is_api:
            if not self.signed_in() and name != "IntrospectToken":
                return self.send_json(401, {"code": 401, "message": "Unauthenticated"})
            status, answer = self.stand_in.answer(name, body)
        elif path.startswith("/upload/"):
            self.stand_in.blobs[path.removeprefix("/upload/")]["data"] = content
            status, answer = 200, {}
        elif path.startswith("/api/v1/kernels/logs/stream/"):
            return self.send_stream(path)
        else:
            return self.send_file(path, fault)
        if fault:  # cut_after, hang_after: the deed is done, the answer is not given
            return self.fail(fault)
        if status == 302:
            return self.send(302, b"", {"Location": answer["location"]})
        return self.send_json(status, answer)

    def next_fault(self, name):
        with self.stand_in.lock:
            for fault in self.stand_in.faults:
                if fault["times"] and re.fullmatch(fault["method"], name):
                    if fault["after"]:
                        fault["after"] -= 1
                        continue
                    fault["times"] -= 1
                    return fault
        return None

    def fail(self, fault):
        kind = fault["kind"]
        if kind == "http":
            status = fault["status"]
            answer = {"code": status, "message": fault.get("message", f"the stand-in says {status}")}
            return self.send_json(status, answer, fault.get("headers"))
        if kind == "html":
            page = b"<html><title>Kaggle</title>Our servers are having a moment</html>"
            return self.send(fault.get("status", 200), page, {"Content-Type": "text/html"})
        if kind == "answer":
            return self.send_json(200, fault["body"])
        if kind == "bytes":
            return self.send(200, fault["body"], {"Content-Type": "application/json"})
        if kind.startswith("hang"):
            self.stand_in.reached.set()
            self.stand_in.released.wait(30)
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def signed_in(self):
        basic = base64.b64encode(f"{USER}:{KEY}".encode()).decode()
        return self.headers.get("Authorization") in (f"Basic {basic}", "Bearer good-token")

    def send_stream(self, path):
        versions = self.stand_in.kernels.get(path.removeprefix("/api/v1/kernels/logs/stream/"))
        events = versions[-1]["live"] if versions else ""
        data = json.dumps({"stream_name": "stdout", "time": 1.0, "data": events})
        lines = f"data: {data}\n\n" if events else ""
        self.send(200, lines.encode() + b"data: END_OF_LOG\n\n", {"Content-Type": "text/event-stream"})

    def send_file(self, path, fault):
        body = self.stand_in.files.get(path.removeprefix("/files/"))
        if isinstance(body, list):
            body = body.pop(0) if len(body) > 1 else body[0]
        if body is None:
            return self.send(403, b"<Error><Code>ExpiredToken</Code></Error>", {"Content-Type": "application/xml"})
        headers = {"Content-Type": "application/octet-stream", "ETag": f'"{hashlib.md5(body).hexdigest()}"'}
        headers["Accept-Ranges"] = "bytes"
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        status = 200
        if wanted and self.headers.get("If-Range") in (None, headers["ETag"]):
            status, body = 206, body[int(wanted[1]) :]
        if fault:  # cut_after: the first half comes
            self.send_response(status)
            for name, value in {**headers, "Content-Length": len(body)}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            return self.fail(fault)
        return self.send(status, body, headers)

    def send_json(self, status, answer, headers=None):
        self.send(status, json.dumps(answer).encode(), {"Content-Type": "application/json", **(headers or {})})

    def send(self, status, body, headers):
        with contextlib.suppress(OSError):
            self.send_response(status)
            for name, value in {**headers, "Content-Length": len(body)}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)


class FakeTime:
    """A clock that only sleeping moves; it remembers each pause."""

    def __init__(self):
        self.now, self.pauses = 0.0, []

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.pauses.append(seconds)
        self.now += seconds


def put_up_wall(monkeypatch):
    names = {}
    exec(WALL, names)
    monkeypatch.setattr(socket.socket, "connect", names["connect"])
    monkeypatch.setattr(socket.socket, "connect_ex", names["connect_ex"])
    monkeypatch.setattr(socket, "getaddrinfo", names["getaddrinfo"])


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """A `StandIn` that everything in this test talks to, whatever it does."""
    home = tmp_path / "home"
    (home / "wall").mkdir(parents=True)
    lines = "\nsocket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo = connect, connect_ex, getaddrinfo\n"
    (home / "wall" / "sitecustomize.py").write_text(WALL + lines)
    for name in list(os.environ):
        if name.upper().startswith("KAGGLE_") or name.lower() in (*PROXIES, "no_proxy"):
            monkeypatch.delenv(name)
    served = StandIn()
    for name, value in served.environment(home).items():
        if name != "PYTHONPATH":
            monkeypatch.setenv(name, value)
    put_up_wall(monkeypatch)
    served.home = home
    yield served
    served.close()


def make_link(seconds=2.0, **options):
    """A `KaggleLink` that never sleeps, and its `FakeTime`."""
    from desk.kaggle.transport import KaggleLink

    fake = FakeTime()
    said = []
    link = KaggleLink(
        seconds=seconds, clock=fake.clock, sleep=fake.sleep, jitter=lambda: 0.5, say=said.append, **options
    )
    link.said, link.time = said, fake
    return link


KERNEL = f'''\
# /// script
# [tool.kaggle]
# title = "Salt NAME"
# accelerator = "NvidiaTeslaT4"
# competition_sources = ["{COMPETITION}"]
# ///
"""Do something small."""
from salt.config import preset

# %% tags=["parameters"]
'''
TRAIN = 'PRESET = "smoke"\nSET = {}\nRUN_ID = ""\nRESUME = ""\n\n# %%\nprint(RUN_ID, RESUME, preset(PRESET, **SET))\n'
PREDICT = 'SET = {}\nRUN_ID = ""\n\n# %%\nprint(RUN_ID, preset("smoke", **SET))\n'


@pytest.fixture
def repository(stand_in, tmp_path, monkeypatch):
    """A repository with two small kernels, and a Kaggle that runs what is pushed."""
    root = tmp_path / "repository"
    for folder in ("kernels", "salt", "runs"):
        (root / folder).mkdir(parents=True)
    for name in ("__init__.py", "config.py"):
        shutil.copyfile(ROOT / "salt" / name, root / "salt" / name)
    for name, body in (("train", TRAIN), ("predict", PREDICT)):
        (root / "kernels" / f"{name}.py").write_text(KERNEL.replace("NAME", name) + body)
    from desk import paths

    monkeypatch.setattr(paths, "ROOT", root)
    monkeypatch.setattr(paths, "BUILD", root / "build")
    stand_in.next_states = ["QUEUED", "RUNNING", "RUNNING", "COMPLETE"]
    stand_in.on_push = lambda version: stand_in.leave_output(version, train_output(tmp_path, version))
    return root


@pytest.fixture
def call(repository, capsys):
    """Calls a script; gives (exit status, what was printed, the link)."""

    def run(script, *arguments, link=None):
        link = link or make_link(seconds=0.5)
        status = script.main([*arguments, "--runs", str(repository / "runs")], link)
        captured = capsys.readouterr()
        text = captured.out + captured.err + "\n".join(link.said)
        assert_no_secret(repository, text=text)
        return status, text, link

    return run


def parameters(version) -> dict:
    """What stands in the settings cell of a pushed notebook."""
    cells = json.loads(version["source"])["cells"]
    (source,) = ["".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    statements = ast.parse(source).body
    return {statement.targets[0].id: ast.literal_eval(statement.value) for statement in statements}


def train_output(folder, version, **more) -> dict:
    """{name: bytes} of what a run of a pushed train notebook leaves: two tiles for each of its folds."""
    import numpy as np

    from salt.artifacts import Oof, write_manifest, write_oof
    from salt.config import preset
    from salt.scoring import score_oof

    values = parameters(version)
    config = preset(values["PRESET"], **values["SET"])
    folder = pathlib.Path(tempfile.mkdtemp(prefix=values["RUN_ID"], dir=folder))
    fold = np.repeat(np.array(config.train_folds, np.int8), 2)
    masks = np.zeros((len(fold), 101, 101), np.uint8)
    masks[::2, :50] = 1
    ids = np.array([f"{held_out}{letter}" for held_out in config.train_folds for letter in "ab"])
    oof = Oof(ids, fold, 200 * masks, masks)
    write_oof(folder / "oof.npz", oof)
    for held_out in config.train_folds:
        (folder / f"fold{held_out}.weights.h5").write_bytes(b"weights %d" % held_out)
    rows = [f"{held_out},1,0.5" for held_out in config.train_folds]
    (folder / "history.csv").write_text("\n".join(["fold,epoch,loss", *rows, ""]))
    (folder / "courses.json").write_text(json.dumps({held_out: {"end": 9} for held_out in config.train_folds}))
    more = {"minutes": 61.0, "score": score_oof(oof), "finished": True, **more}
    write_manifest(folder, values["RUN_ID"], "train", config, **more)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def start_script(stand_in, script, *arguments, root=None, prelude="") -> subprocess.Popen:
    """A script in a process of its own, behind the wall.

    Args:
        root: what it takes for the repository; None: this one.
        prelude: code that runs before.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KAGGLE_")}
    name = script.removesuffix(".py")
    code = f"import pathlib, sys; sys.path.insert(0, {str(ROOT)!r}); "
    code += f"from desk import consent, paths; from scripts import {name} as script; "
    code += "consent.at_terminal = lambda: True; "
    code += f"paths.ROOT = pathlib.Path({str(root or ROOT)!r}); paths.BUILD = paths.ROOT / 'build'; "
    command = ["-c", prelude + code + "sys.exit(script.main(sys.argv[1:]))"]
    return subprocess.Popen(
        [sys.executable, *command, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**environment, **stand_in.environment(stand_in.home)},
    )  # fmt: skip


def make_old(path):
    """Makes a record say that it was sent long ago."""
    record = json.loads(pathlib.Path(path).read_text())
    pathlib.Path(path).write_text(json.dumps(record | {"at": "2026-01-01T00:00:00Z", "up": ""}))


def kill_when_reached(stand_in, process, seconds=300):
    """kill -9, as soon as the process waits for an answer that hangs."""
    deadline = time.monotonic() + seconds
    while not stand_in.reached.wait(0.02):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError(f"it ended before it was reached: {process.communicate()[0]}")
    process.kill()
    process.communicate()
    stand_in.released.set()


def assert_no_secret(*folders, text=""):
    """Fails if a planted secret stands in the text or in any file of the folders."""
    secrets = [KEY, base64.b64encode(f"{USER}:{KEY}".encode()).decode(), "planted-signature"]
    for secret in secrets:
        assert secret not in text
        for folder in folders:
            for path in pathlib.Path(folder).rglob("*"):
                if path.is_file():
                    assert secret.encode() not in path.read_bytes(), f"{path} holds a secret"
