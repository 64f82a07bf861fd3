import json

import kaggle_stand_in
import pytest
import requests
from kaggle_stand_in import USER, make_link
from kagglesdk.kernels.types.kernels_api_service import ApiListKernelSessionOutputResponse, ApiSaveKernelResponse

from desk.kaggle import answers
from desk.kaggle.answers import UnreadableAnswer, check_fields, prepare_answer
from desk.kaggle.competitions import create_submission
from desk.kaggle.errors import AmbiguousError, UnreachableError
from desk.kaggle.kernels import read_status, save_kernel

stand_in = kaggle_stand_in.stand_in


@pytest.mark.parametrize(
    ("found", "message"),
    [([], r"\[\] is no Api"), ({"versionNumber": "3"}, "versionNumber is '3', no int"),
     ({"versionNumber": True}, "is True"), ({"versionNumber": 10**30}, "no int"),
     ({"ref": ["a"]}, r"ref is \['a'\], no str"),
     ({"invalidTags": "abc"}, "is 'abc', no list"), ({"invalidTags": [1]}, "invalidTags is 1, no str"),
     ({"error": {"code": 429}}, "error is {'code': 429}"), ({"url": "x" * 200, "error": 5}, "error is 5")],
)  # fmt: skip
def test_a_field_of_another_type_is_named(found, message):
    with pytest.raises(UnreadableAnswer, match=message):
        check_fields(found, ApiSaveKernelResponse)


def test_what_is_as_the_sdk_says_is_taken_and_unknown_fields_are_left_alone():
    check_fields({"versionNumber": 3, "ref": None, "new": {"a": 1}, "invalidTags": ["a"]}, ApiSaveKernelResponse)
    with pytest.raises(UnreadableAnswer, match="is 5, no str"):
        check_fields({"files": [{"fileName": "a"}, {"fileName": 5}]}, ApiListKernelSessionOutputResponse)


def test_more_than_anybody_reads_is_no_answer(monkeypatch):
    monkeypatch.setattr(answers, "MOST_ANSWER", 10)
    response = requests.Response()
    response.status_code, response._content = 200, json.dumps({"url": "a" * 20}).encode()
    response.headers["Content-Type"] = "application/json"
    with pytest.raises(UnreadableAnswer, match="31 bytes, more than 10"):
        prepare_answer(lambda kind, response: None, ApiSaveKernelResponse, response)


def test_an_error_in_the_place_of_a_status_is_not_taken_for_queued(stand_in):
    stand_in.add_version(f"{USER}/salt-train", states=["RUNNING"])
    stand_in.fault("GetKernelSessionStatus", "answer", body={"error": {"code": 429}}, times=9)
    with pytest.raises(UnreachableError, match="it says error"):
        read_status(make_link(attempts=2), f"{USER}/salt-train", 1)


METADATA = {
    "id": f"{USER}/salt-train", "title": "Salt train", "language": "python", "kernel_type": "notebook", "keywords": [],
    **dict.fromkeys(("is_private", "enable_gpu", "enable_tpu", "enable_internet"), False),
    **{f"{kind}_sources": [] for kind in ("dataset", "competition", "kernel", "model")},
}  # fmt: skip
ODD_ANSWERS = {
    "nested": b"[" * 10_000, "nested object": b'{"error": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "cut": b'{"ref": "t',
    "list": b"[]", "number": b"7", "null": b"null", "error number": b'{"error": 5}', "not json": b"\xff\xfe",
    "error object": b'{"error": {"code": 429}}', "code text": b'{"code": "429"}', "sources": b'{"invalidTags": "abc"}',
    "reference": b'{"versionNumber": 3, "ref": 7}', "nothing": b"{}", "not a number": b'{"versionNumber": NaN}',
}  # fmt: skip


@pytest.mark.parametrize("name", ODD_ANSWERS)
def test_an_answer_to_a_push_that_cannot_be_read_is_unknown_and_not_repeated(stand_in, name):
    stand_in.fault("SaveKernel", "bytes", body=ODD_ANSWERS[name], times=9)
    with pytest.raises(AmbiguousError):
        save_kernel(make_link(), METADATA, "source")
    assert len(stand_in.calls("SaveKernel")) == 1


def test_what_is_null_is_as_if_it_were_not_there(stand_in):
    stand_in.add_version(f"{USER}/salt-train", states=["RUNNING"])
    stand_in.fault("GetKernelSessionStatus", "answer", body={"status": "RUNNING", "failureMessage": None})
    assert read_status(make_link(), f"{USER}/salt-train", 1).state == "RUNNING"
    stand_in.fault("CreateSubmission", "answer", body={"ref": None, "message": "Successfully submitted"})
    assert create_submission(make_link(), kaggle_stand_in.COMPETITION, "blob-0", "m") == (
        None,
        "Successfully submitted",
    )


@pytest.mark.parametrize("state", ["\ud800", "__init__", "name", "mro", ""])
def test_a_state_that_is_none_is_not_taken_for_what_its_class_has_besides(stand_in, state):
    stand_in.add_version(f"{USER}/salt-train", states=[state])
    with pytest.raises(UnreachableError, match="status is"):
        read_status(make_link(attempts=1), f"{USER}/salt-train", 1)
