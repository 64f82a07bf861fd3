"""A small Kaggle: what it has (kernels, versions, datasets, submissions, quota), and what each request does to it."""

import json
import re
import threading
import time
import urllib.parse

USER, KEY = "tester", "planted-secret-0123456789abcdef"
COMPETITION = "tgs-salt-identification-challenge"
SOURCES = ("datasetDataSources", "competitionDataSources", "kernelDataSources", "modelDataSources")
SHOWN = ("isPrivate", "enableGpu", "enableTpu", "enableInternet", "machineShape")  # of a version, besides its sources


class Kaggle:
    """Everything in it may be looked at and changed by a test.

    Attributes:
        kernels: {"owner/slug": [version, ...]}, each {number, source, request, states, message, files, log, shown_at}.
            `states` is what the status says, one after the other; the last one stays.
        datasets: {"owner/slug": {files, states, versions}}, with the files of each version.
        submissions: [{ref, description, states, data, shown_at, ...}].
        files: {name in an address: bytes, or a list of them for one request after the other}.
        clock: seconds, for what is shown late and for runs that take their time.
        late: seconds for which what is made anew is not shown.
        seconds: of a run, after which it has the last of `next_states`; None: it goes on with each look.
        suffix: of the slug under which the next new kernel is put, such as "-2": its title is taken.
        dropped: sources that pushes lose in silence; `changed`: {field: value} that they get instead of what was asked.
        shouts: shows sources in upper case and without their owners.
        token: that is taken; a sign-in gets another one, and the one before ends.
    """

    def __init__(self):
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
        self.clock, self.late, self.seconds = time.monotonic, 0.0, None
        self.suffix, self.dropped, self.changed, self.shouts = "", set(), {}, False
        self.token = "good-token"
        self.lock = threading.RLock()

    # what a test asks for

    def url(self, name, body) -> str:
        """The signed address of a file."""
        self.files[name] = body
        return f"http://localhost/files/{urllib.parse.quote(name)}?signature=planted-signature"

    def add_version(self, ref, source="", request=None, states=None, message="", files=None, log=""):
        versions = self.kernels.setdefault(ref, [])
        version = {
            "shown_at": self.clock() + self.late, "began": self.clock() if self.seconds else None,
            "number": len(versions) + 1, "source": source, "request": request or {}, "message": message,
            "states": list(states or self.next_states), "files": dict(files or {}), "log": log, "live": "",
        }  # fmt: skip
        versions.append(version)
        return version

    def leave_output(self, version, files, log="done\n"):
        """What a run has written: {name: bytes}, and its log."""
        version["files"] = dict(files)
        version["log"] = json.dumps([{"stream_name": "stdout", "time": 61.5, "data": log}])

    def is_shown(self, thing) -> bool:
        return thing["shown_at"] <= self.clock()

    def state_of(self, version) -> str:
        """How a version's run stands; the next look finds the next of its states."""
        states = version["states"]
        if version["began"] is not None:
            passed = self.clock() - version["began"]
            return states[-1] if passed >= self.seconds else states[min(int(passed > 0), len(states) - 1)]
        return states.pop(0) if len(states) > 1 else states[0]

    def is_active(self, version) -> bool:
        """Whether it holds a session, without a look at it."""
        if version["began"] is not None and self.clock() - version["began"] >= self.seconds:
            return False
        return is_active(version)

    # what a request does

    def answer(self, name, body):
        method = getattr(self, "do_" + re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower(), None)
        if method is None:
            return 404, {"code": 404, "message": f"the stand-in has no {name}"}
        with self.lock:
            found = method(body)
        return found if isinstance(found, tuple) else (200, found)

    def do_generate_access_token(self, body):
        if body["refreshToken"] != "good-refresh-token":
            return 400, {"code": 400, "message": "The refresh token is not valid"}
        self.token += "-"
        return {"token": self.token, "expiresIn": 43_200}

    def do_introspect_token(self, body):
        return {"active": body["token"] == self.token, "username": USER}

    def do_get_accelerator_quota_statistics(self, body):
        return {"quotaRefreshTime": "2026-11-28T00:00:00Z", "gpuQuota": self.quota, "tpuQuota": self.quota}

    def do_save_kernel(self, body):
        versions = [version for found in self.kernels.values() for version in found]
        active = [one for one in versions if one["request"].get("enableGpu") and self.is_active(one)]
        if body.get("enableGpu") and len(active) >= self.sessions:
            return {"error": f"Maximum batch GPU session count of {self.sessions} reached."}
        ref = body["slug"] if body["slug"] in self.kernels else body["slug"] + self.suffix
        request = {name: value for name, value in body.items() if name not in self.dropped} | self.changed
        version = self.add_version(ref, body["text"], request)
        if self.on_push:
            self.on_push(version)
        number = version["number"]
        return {"ref": ref, "url": f"https://www.kaggle.com/code/{ref}", "versionNumber": number, "kernelId": 7}

    def version_of(self, body):
        versions = list(filter(self.is_shown, self.kernels.get(f"{body['userName']}/{body['kernelSlug']}", [])))
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
        shown = {name: version["request"][name] for name in (*SOURCES, *SHOWN) if name in version["request"]}
        if self.shouts:
            shown |= {name: [one.split("/")[-1].upper() for one in shown.get(name, [])] for name in SOURCES[:2]}
        newest = max(one["number"] for one in self.kernels[ref] if self.is_shown(one))
        shown |= {"ref": ref, "currentVersionNumber": newest}
        return {"metadata": shown, "blob": {"source": version["source"]}}

    def do_list_kernels(self, body):
        """The kernels with a version that a push made; what a test adds has no accelerator of its own."""
        known = {ref: list(filter(self.is_shown, versions)) for ref, versions in self.kernels.items()}
        newest = {ref: versions[-1]["request"] for ref, versions in known.items() if versions}
        return {"kernels": [{"ref": ref, "enableGpu": made.get("enableGpu", False)} for ref, made in newest.items()]}

    def do_get_kernel_session_status(self, body):
        version = self.version_of(body)
        if version is None:
            return missing("kernel session")
        state = self.state_of(version)
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
        if found is None or not self.is_shown([*found.get("versions", []), {"shown_at": self.clock()}][0]):
            return missing("dataset")
        states = found["states"]
        return {"status": states.pop(0) if len(states) > 1 else states[0]}

    def do_list_dataset_files(self, body):
        found = self.shown_files(f"{body['ownerSlug']}/{body['datasetSlug']}")
        if found is None:
            return missing("dataset")
        return {"datasetFiles": [{"name": name, "totalBytes": len(data)} for name, data in found.items()]}

    def shown_files(self, ref):
        """The files of a dataset's newest version that is shown."""
        found = self.datasets.get(ref, {})
        versions = list(filter(self.is_shown, found.get("versions", [])))
        return versions[-1]["files"] if versions else None if "versions" in found else found.get("files")

    def do_download_dataset(self, body):
        found = self.shown_files(f"{body['ownerSlug']}/{body['datasetSlug']}") or {}
        name = body["fileName"]
        return (302, {"location": self.url(f"dataset/{name}", found[name])}) if name in found else missing("file")

    def do_start_blob_upload(self, body):
        return self.start_upload(body["name"])

    def do_start_submission_upload(self, body):
        return self.start_upload(body["fileName"])

    def start_upload(self, name):
        token = f"blob-{len(self.blobs)}"
        self.blobs[token] = {"name": name, "data": None}
        return {"token": token, "createUrl": f"http://localhost/upload/{token}?signature=planted-signature"}

    def do_create_dataset(self, body):
        ref = f"{body['ownerSlug']}/{body['slug']}"
        if ref in self.datasets:
            return {"error": "The requested title is already in use by a dataset"}
        return self.save_dataset(ref, body["files"])

    def do_create_dataset_version(self, body):
        return self.save_dataset(f"{body['ownerSlug']}/{body['datasetSlug']}", body["body"]["files"])

    def save_dataset(self, ref, files):
        blobs = [self.blobs[file["token"]] for file in files]
        kept = {blob["name"]: blob["data"] for blob in blobs if blob["data"] is not None}
        versions = self.datasets.get(ref, {}).get("versions", [])
        versions.append({"files": kept, "shown_at": self.clock() + self.late})
        self.datasets[ref] = {"files": kept, "states": ["BLOBS_RECEIVED", "READY"], "versions": versions}
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
            "data": blob["data"], "shown_at": self.clock() + self.late, "publicScore": "0.78543",
            "privateScore": "0.80123",
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
        found = [one for one in self.submissions if one["ref"] == body["ref"] and self.is_shown(one)]
        return self.shown_submission(found[0]) if found else missing("submission")

    def do_list_submissions(self, body):
        return {"submissions": [self.shown_submission(one) for one in reversed(self.submissions) if self.is_shown(one)]}


def is_active(version) -> bool:
    return version["states"][0] in ("QUEUED", "RUNNING", "CANCEL_REQUESTED")


def missing(what):
    return 404, {"code": 404, "message": f"No such {what}"}
