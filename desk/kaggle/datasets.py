"""Datasets and models on Kaggle: are they there, what do they hold, and how one is made."""

import pathlib
import re
from collections.abc import Callable

from kagglesdk.blobs.types.blob_api_service import ApiBlobType, ApiStartBlobUploadRequest
from kagglesdk.datasets.types.dataset_api_service import (
    ApiCreateDatasetRequest,
    ApiCreateDatasetVersionRequest,
    ApiCreateDatasetVersionRequestBody,
    ApiDatasetNewFile,
    ApiDownloadDatasetRequest,
    ApiGetDatasetStatusRequest,
    ApiListDatasetFilesRequest,
)
from kagglesdk.models.types.model_api_service import ApiGetModelInstanceRequest
from kagglesdk.models.types.model_enums import ModelFramework

from desk.errors import ConfigurationError
from desk.kaggle.errors import NotFoundError
from desk.kaggle.files import download, upload
from desk.kaggle.transport import PAGE, KaggleLink
from desk.paths import AnyPath


def dataset_state(link: KaggleLink, ref: str) -> str:
    """READY, FAILED or a step on the way there.

    Raises:
        NotFoundError, AccessError: no such dataset.
    """
    owner, _, slug = ref.partition("/")
    answer = link.ask(
        f"look at the dataset {ref}", link.client.datasets.dataset_api_client.get_dataset_status,
        ApiGetDatasetStatusRequest, owner_slug=owner, dataset_slug=slug.partition("/")[0],
    )  # fmt: skip
    return answer.status.name


def dataset_files(link: KaggleLink, ref: str) -> dict[str, int]:
    """{name: bytes} of the files of a dataset's newest version."""
    owner, _, slug = ref.partition("/")
    pages = link.ask_pages(
        f"list the files of {ref}", link.client.datasets.dataset_api_client.list_dataset_files,
        ApiListDatasetFilesRequest, owner_slug=owner, dataset_slug=slug, page_size=PAGE,
    )  # fmt: skip
    return {file.name: file.total_bytes for page in pages for file in page.dataset_files or []}


def download_dataset_file(link: KaggleLink, ref: str, name: str, path: AnyPath) -> None:
    """Writes a file of a dataset's newest version to `path`, in place; its size is for the caller to check."""
    owner, _, slug = ref.partition("/")
    answer = link.ask(
        f"get {name} of {ref}", link.client.datasets.dataset_api_client.download_dataset, ApiDownloadDatasetRequest,
        owner_slug=owner, dataset_slug=slug, file_name=name, raw=True,
    )  # fmt: skip
    with answer:
        sent = {key: value for key, value in answer.request.headers.items() if key == "Authorization"}
        url = answer.url
    download(link, url, path, sent)


def upload_blob(link: KaggleLink, path: AnyPath, progress: Callable[[int], object] | None = None) -> str:
    """Uploads a file for a dataset; returns the token that stands for it."""
    path = pathlib.Path(path)
    answer = link.ask(
        f"upload {path.name}", link.client.blobs.blob_api_client.start_blob_upload, ApiStartBlobUploadRequest,
        type=ApiBlobType.DATASET, name=path.name, content_length=path.stat().st_size,
        last_modified_epoch_seconds=int(path.stat().st_mtime),
    )  # fmt: skip
    upload(link, path, answer.create_url, progress)
    return answer.token


def save_dataset(
    link: KaggleLink, ref: str, title: str, tokens: list[str], notes: str, new: bool, private: bool = True,
    again: Callable[[], None] | None = None,
) -> str:  # fmt: skip
    """Makes a dataset, or a new version of one, of uploaded files; returns its address.

    Raises:
        AmbiguousError: perhaps it was made.
        ConfigurationError, ...: it was not.
    """
    owner, _, slug = ref.partition("/")
    files = [ApiDatasetNewFile() for _ in tokens]
    for file, token in zip(files, tokens, strict=True):
        file.token = token
    client, what = link.client.datasets.dataset_api_client, f"save the dataset {ref}"
    if new:
        answer = link.ask(
            what, client.create_dataset, ApiCreateDatasetRequest, command=True, again=again, owner_slug=owner,
            slug=slug, title=title, license_name="other", is_private=private, files=files,
        )  # fmt: skip
    else:
        body = ApiCreateDatasetVersionRequestBody()
        body.version_notes, body.files = notes, files
        answer = link.ask(
            what, client.create_dataset_version, ApiCreateDatasetVersionRequest, command=True, again=again,
            owner_slug=owner, dataset_slug=slug, body=body,
        )  # fmt: skip
    if answer.error:
        raise ConfigurationError(f"cannot {what}: {link.scrub(answer.error)}")
    return answer.url or dataset_url(ref)


def dataset_url(ref: str) -> str:
    """The page of a dataset."""
    return f"https://www.kaggle.com/datasets/{ref}"


def find_model(link: KaggleLink, source: str) -> None:
    """Raises `NotFoundError` or `AccessError` unless owner/model/framework/variation/version is there."""
    owner, model, framework, variation, version = source.split("/")
    wanted = "MODELFRAMEWORK" + re.sub(r"\W|_", "", framework).upper()
    kind = next((kind for kind in ModelFramework if kind.name.replace("_", "") == wanted), None)
    if kind is None:
        raise ConfigurationError(f"model source {source}: Kaggle knows no framework {framework!r}")
    found = link.ask(
        f"look at the model {source}", link.client.models.model_api_client.get_model_instance,
        ApiGetModelInstanceRequest, owner_slug=owner, model_slug=model, framework=kind, instance_slug=variation,
    )  # fmt: skip
    if found.version_number and int(version) > found.version_number:
        raise NotFoundError(f"model source {source}: its newest version is {found.version_number}")
