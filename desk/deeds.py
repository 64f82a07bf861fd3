"""What goes to Kaggle once: a push, a submission, a version of a dataset; and how each is known again there.

A push is known by the run's id in its notebook, a submission by the run's id at the beginning of its description, a
dataset by the names and sizes of its files. When and how often to look is for sending.py.
"""

import contextlib
import hashlib
import json
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator

from desk.building import read_parameters
from desk.competitions import slug_of
from desk.errors import ConfigurationError
from desk.kaggle.competitions import create_submission, list_submissions
from desk.kaggle.datasets import dataset_files, dataset_state, dataset_url, save_dataset
from desk.kaggle.errors import AccessError, AmbiguousError, NotFoundError, UnreachableError
from desk.kaggle.kernels import (
    FLAGS,
    KINDS,
    Kernel,
    kernel_url,
    kernels_like,
    read_kernel,
    save_kernel,
    source_name,
)
from desk.kaggle.transport import KaggleLink
from desk.output import show
from desk.records import parse_object, read_object, remove_record, seconds_since, utc_now
from desk.runs import PUSH, Run
from desk.secrets import own_secrets, refuse_secrets
from desk.sending import LOOKS, NO_ANSWER, SETTLED, Deed
from desk.states import PushRecord, SubmitRecord, UploadRecord

MOST_VERSIONS = 20  # of a kernel that are searched for a run, the newest first
PAGE = "https://www.kaggle.com/competitions/{slug}/submissions"


# --- a push ----------------------------------------------------------------------------------------------------------


class Push(Deed[PushRecord]):
    """A version of a kernel."""

    def __init__(self, link: KaggleLink, run: Run, patient: bool = False):
        """A run's push.

        Args:
            link: to Kaggle.
            run: whose folder holds what is pushed.
            patient: wait for a version that Kaggle does not show at once.
        """
        super().__init__(link, run.push)
        self.run, self.patient, self.name = run, patient, run.push.run_id
        self.again = (
            f"{self.name}: Kaggle shows no such version yet, and may still make it. Do not repeat the push: "
            f"python scripts/fetch.py {run.owner.name} looks again, and so does the next push"
        )

    def send(self) -> dict:
        metadata, content = self.run.metadata, self.run.pushed_notebook()
        if self.record.sha256 not in (None, hashlib.sha256(content.encode()).hexdigest()):
            raise ConfigurationError(f"{self.run.folder / 'pushed'}: the notebook was changed since it was built")
        refuse_secrets(
            {"the notebook": content, "its metadata": json.dumps(metadata)}, own_secrets(self.link.used_secrets)
        )
        saved = save_kernel(self.link, metadata, content, self.record.hours, self.mark_time)
        lacking = [f"WITHOUT {name}" for name in saved.invalid]
        return self.arrived(saved.ref, saved.version) | {"url": saved.url, "differences": lacking}

    def arrived(self, ref: str, version: int) -> dict:
        """The fields of the record that say under which name Kaggle has it."""
        asked = self.record.asked_ref or self.record.ref
        other = {"asked_ref": asked} if ref.lower() != asked.lower() else {"asked_ref": None}
        return {"ref": ref, "version": version, "url": kernel_url(ref), **other}

    def find(self) -> dict | None:
        asked = self.record.asked_ref or self.record.ref
        for ref in self.places(asked):
            with contextlib.suppress(NotFoundError, AccessError):
                newest = read_kernel(self.link, ref)
                before = (self.record.previous or 0) if ref == self.record.ref else 0
                for number in range(newest.version, max(before, newest.version - MOST_VERSIONS), -1):
                    shown = newest if number == newest.version else read_kernel(self.link, ref, number)
                    if names_run(shown.source, self.record.run_id):
                        return self.arrived(ref, number)
        return None

    def places(self, asked: str) -> Iterator[str]:
        """Where it may be: where it was sent, or else under what Kaggle makes of a name that is taken."""
        yield asked
        with contextlib.suppress(*NO_ANSWER):
            yield from kernels_like(self.link, asked)

    def describe(self) -> str:
        return f"the push arrived, as version {self.record.version}"

    def keep(self) -> None:
        self.run.keep(self.record)

    def drop(self, refused: bool) -> None:
        if self.record.fold is not None:
            self.move("queued")
        else:  # in one step, so that a kill leaves no half of a run
            grave = pathlib.Path(tempfile.mkdtemp(prefix=".gone-", dir=self.run.folder.parent))
            self.run.folder.rename(grave / self.run.name)
            shutil.rmtree(grave, ignore_errors=True)

    def is_lost(self) -> bool:
        known = {PUSH, "pushed"}
        others = [path for path in self.run.folder.iterdir() if path.name not in known and path.name[0] != "."]
        return self.record.fold is not None or not others

    def confirm(self) -> None:
        shown = self.read_back()
        differences = list(self.record.differences)
        if shown is not None:
            differences += [text for text in self.compare(shown) if text not in differences]
        if differences:
            self.move("differs", differences=differences)
            raise ConfigurationError(
                f"{self.name}: version {self.record.version} runs {', '.join(differences)}: stop it on "
                f"{self.record.url}, correct the head of {self.record.kernel}.py and push again"
            )
        if shown is not None:
            self.move("pushed")
        else:
            show(("read back", "Kaggle does not show the version yet; fetch.py looks again"))

    def read_back(self) -> Kernel | None:
        """The version as Kaggle shows it; None if it shows none that holds this run."""
        for pause in (0.0, *LOOKS) if self.patient else (0.0,):
            if pause:
                self.link.sleep(pause)
            with contextlib.suppress(*NO_ANSWER):
                shown = read_kernel(self.link, self.record.ref, self.record.version)
                if names_run(shown.source, self.record.run_id):
                    return shown
        with contextlib.suppress(*NO_ANSWER):  # under another number than the answer named
            if (found := self.find()) is not None:
                self.move("saved", **found)
                return read_kernel(self.link, self.record.ref, self.record.version)
        return None

    def compare(self, shown: Kernel) -> list[str]:
        """In which a version that Kaggle shows differs from what was sent; what it does not show is not known."""
        metadata = self.run.metadata
        found = []
        if shown.attached is not None:
            bare = {re.sub(r" .*/", " ", name) for name in shown.attached if "/" not in name}
            for name in [source_name(kind, each) for kind in KINDS for each in metadata.get(f"{kind}_sources", [])]:
                if name not in shown.attached and re.sub(r" .*/", " ", name) not in bare:
                    found.append(f"WITHOUT {name}")
        words = {"is_private": ("in PUBLIC", "as a private one"), "enable_gpu": ("without a GPU", "on a GPU"),
                 "enable_tpu": ("without a TPU", "on a TPU"),
                 "enable_internet": ("without the internet", "with the internet")}  # fmt: skip
        found += [words[flag][shown.flags[flag]] for flag in FLAGS
                  if flag in shown.flags and flag in metadata and shown.flags[flag] != metadata[flag]]  # fmt: skip
        machine = metadata.get("machine_shape")
        # Kaggle tells the machine of the last session, which is this one's if there was none before.
        if machine and shown.machine and plain(machine) != plain(shown.machine) and not self.record.previous:
            found.append(f"on {shown.machine}, not on {machine}")
        if self.record.sha256 and hashlib.sha256(shown.source.encode()).hexdigest() != self.record.sha256:
            with contextlib.suppress(ConfigurationError):
                if cells(shown.source) != cells(self.run.pushed_notebook()):
                    found.append("ANOTHER notebook than was sent")
        return found


def names_run(source: str, run_id: str) -> bool:
    """Whether a notebook is of this run: its RUN_ID, not its RESUME, and not the beginning of another one's."""
    return bool(re.search(rf"""RUN_ID\b[^=\n]{{0,40}}=\s*\\?["']{re.escape(run_id)}\\?["']""", source))


def plain(text: str) -> str:
    """A name without what is written differently here and there."""
    return re.sub(r"\W|_", "", text).lower()


def cells(notebook: str) -> list | None:
    """What a notebook says, however its JSON is written; None if it is none."""
    try:
        found = parse_object(notebook)["cells"]
        return [(cell["cell_type"], "".join(cell["source"])) for cell in found]
    except (ValueError, KeyError, TypeError):
        return None


def remade_push(run: Run) -> PushRecord:
    """The record of a push, made anew from what the run's folder keeps of it; what became of it is open.

    Raises:
        ConfigurationError: that is not there either.
    """
    metadata, content = run.metadata, run.pushed_notebook()
    try:
        values = read_parameters(run.folder / "pushed" / metadata["code_file"])
    except (ValueError, KeyError, TypeError, AttributeError, SyntaxError):
        values = {}
    settings, name = values.get("SET"), values.get("RUN_ID")
    fold = re.fullmatch(r"fold-(\d+)", run.folder.name) if run.owner is not run else None
    return PushRecord(
        state="ambiguous", run_id=name if isinstance(name, str) and name else run.name, ref=metadata["id"],
        kernel=pathlib.Path(metadata["code_file"]).stem, at=utc_now(),
        sha256=hashlib.sha256(content.encode()).hexdigest(), preset=values.get("PRESET"),
        settings=settings if isinstance(settings, dict) else {}, machine=metadata.get("machine_shape", "CPU"),
        fold=int(fold[1]) if fold else None,
    )  # fmt: skip


# --- a submission ----------------------------------------------------------------------------------------------------


class Submission(Deed[SubmitRecord]):
    """A submission to the competition."""

    def __init__(self, link: KaggleLink, run: Run, record: SubmitRecord, token: str = "", given_up: bool = False):
        """A run's submission.

        Args:
            link: to Kaggle.
            run: whose file it is.
            record: of it, on the disk or about to be.
            token: of the uploaded file, if it is about to be submitted.
            given_up: a person has said that what Kaggle does not list has not arrived.
        """
        super().__init__(link, record)
        self.run, self.token, self.given_up, self.name = run, token, given_up, run.name
        self.slug = slug_of(read_object(run.folder / "manifest.json"))
        self.again = (
            f"Kaggle does not list the submission of {run.name}, sent at {record.at}, and may still count it. Run the "
            f"same command again in some minutes, or look at {PAGE.format(slug=self.slug)}; if it is not there, "
            f"submit.py {run.name} --again sends it anew"
        )

    saved = "PENDING"

    def send(self) -> dict:
        ref, said = create_submission(self.link, self.slug, self.token, self.record.message, self.mark_time)
        print(f"  submitted    {said}")
        if ref is None:
            raise AmbiguousError("Kaggle took the submission, but tells no number for it")
        return {"ref": ref}

    def find(self) -> dict | None:
        for submission in list_submissions(self.link, self.slug):
            if submission.ref not in self.record.earlier and is_of_run(submission.description, self.run.name):
                return {"ref": submission.ref}
        return None

    def describe(self) -> str:
        return f"the submission arrived, as {self.record.ref}"

    def keep(self) -> None:
        self.run.keep(self.record)

    def drop(self, refused: bool) -> None:
        if not refused:
            return  # given up by a person; what is sent next takes its place
        if self.record.before is None:
            remove_record(self.run.folder, SubmitRecord)
        else:
            before = SubmitRecord(**self.record.before)
            self.run.keep(before)

    def is_lost(self) -> bool:
        return self.given_up

    def confirm(self) -> None:
        """Waiting for the score reads it back."""


def is_of_run(description: str, name: str) -> bool:
    """Whether a submission's description says that it is of this run; its id stood last in earlier versions."""
    return description.startswith(f"[{name}]") or description.endswith(f"[{name}]")


# --- a dataset -------------------------------------------------------------------------------------------------------


class Dataset(Deed[UploadRecord]):
    """A version of a dataset."""

    def __init__(
        self, link: KaggleLink, folder: Run, record: UploadRecord, tokens: list[str], title: str = "", new: bool = False
    ):
        """A dataset of uploaded files.

        Args:
            link: to Kaggle.
            folder: where the record is kept.
            record: with owner/slug, and names and sizes of the files.
            tokens: of the files.
            title: of a new one.
            new: whether there is none yet.
        """
        super().__init__(link, record)
        self.folder, self.tokens, self.title, self.new, self.name = folder, tokens, title, new, record.ref
        self.again = (
            f"{self.name}: Kaggle does not show these files yet, and may still publish them; run the same command "
            "again in some minutes, it looks before it uploads"
        )

    def send(self) -> dict:
        notes = f"{len(self.record.files)} files: {', '.join(self.record.files)}"[:200]
        save_dataset(self.link, self.name, self.title, self.tokens, notes, self.new, again=self.mark_time)
        return {}

    def find(self) -> dict | None:
        with contextlib.suppress(NotFoundError, AccessError):  # Kaggle says 403 as well where there is nothing
            return {} if dataset_files(self.link, self.name) == self.record.files else None
        return None

    def describe(self) -> str:
        return f"the dataset arrived, as {dataset_url(self.name)}"

    def keep(self) -> None:
        self.folder.keep(self.record)

    def drop(self, refused: bool) -> None:
        remove_record(self.folder.folder, UploadRecord)

    def confirm(self) -> None:
        """There is nothing more to remember of what is ready and listed, or what is not listed long after."""
        with contextlib.suppress(NotFoundError, AccessError, UnreachableError):
            passed = seconds_since(self.record.at, self.record.up)
            ready = dataset_state(self.link, self.name) == "READY"
            if ready and (self.find() is not None or (passed or 0) >= SETTLED):
                remove_record(self.folder.folder, UploadRecord)
