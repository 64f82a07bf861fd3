import kaggle_stand_in
import pytest
from kaggle_stand_in import USER, assert_no_secret, kill_when_reached, make_link, start_script

from desk import uploading
from scripts import upload_weights

stand_in = kaggle_stand_in.stand_in
REF = f"{USER}/salt-weights"


@pytest.fixture
def weights(tmp_path):
    (tmp_path / "weights").mkdir()
    paths = [tmp_path / "weights" / name for name in ("vgg16.weights.h5", "resnet.weights.h5")]
    for index, path in enumerate(paths):
        path.write_bytes(b"w" * (1000 + index))
    return paths


@pytest.fixture
def upload(stand_in, weights, tmp_path, capsys):
    def call(*arguments, link=None):
        link = link or make_link(seconds=0.5)
        status = upload_weights.main([*map(str, weights), *arguments, "--runs", str(tmp_path / "runs")], link)
        captured = capsys.readouterr()
        text = captured.out + captured.err + "\n".join(link.said)
        assert_no_secret(text=text)
        return status, text, link

    return call


def uploaded(stand_in, weights):
    """Whether the dataset holds these very files, and their sums beside them."""
    found = dict(stand_in.datasets[REF]["files"])
    (sums,) = [name for name in found if name.startswith("sha256-")]
    assert found.pop(sums).decode().count("\n") == len(weights)
    return found == {path.name: path.read_bytes() for path in weights}


def test_weights_become_a_private_dataset(stand_in, weights, upload):
    status, text, _ = upload()
    assert status == 0 and uploaded(stand_in, weights)
    (body,) = stand_in.calls("CreateDataset")
    assert body["isPrivate"] and body["title"] == "Salt weights" and body["slug"] == "salt-weights"
    assert f'dataset_sources = ["{REF}"]' in text and "--set weights=vgg16.weights.h5" in text


def test_a_second_time_nothing_is_uploaded(stand_in, upload):
    upload()
    status, text, _ = upload()
    assert status == 0 and "holds these 2 files already" in text and len(stand_in.calls("StartBlobUpload")) == 3


def test_other_files_become_a_new_version(stand_in, weights, upload):
    upload()
    weights[0].write_bytes(b"v" * 1000)  # of the same size
    assert upload()[0] == 0
    assert uploaded(stand_in, weights)
    assert len(stand_in.calls("CreateDatasetVersion")) == 1


@pytest.mark.parametrize("code", [400, 503])
def test_a_failed_upload_publishes_nothing(stand_in, upload, code):
    stand_in.fault("PUT /upload/blob-1", "http", status=code, times=99)
    status, text, _ = upload()
    assert status == 75 and "upload resnet.weights.h5" in text and "nothing was submitted or published" in text
    assert not stand_in.datasets


def test_a_dataset_without_one_of_the_files_is_noticed(stand_in, upload):
    original = stand_in.save_dataset
    stand_in.save_dataset = lambda ref, named: original(ref, named[:1])
    status, text, _ = upload()
    assert status == 1 and "Kaggle has not got resnet.weights.h5" in text


def test_an_error_in_a_good_answer_is_an_error(stand_in, upload):
    stand_in.fault("CreateDataset", "answer", body={"error": "The requested title is already in use"})
    status, text, _ = upload()
    assert status == 1 and "already in use" in text


@pytest.mark.parametrize(("kind", "status"), [("cut_after", 0), ("cut", 3)])
def test_a_lost_answer_is_looked_up_and_never_repeated(stand_in, upload, kind, status):
    stand_in.fault("CreateDataset", kind)
    found, _, _ = upload()
    assert found == status and len(stand_in.calls("CreateDataset")) == 1


def test_a_dataset_that_never_gets_ready_ends_at_the_deadline(stand_in, upload, monkeypatch):
    stand_in.datasets[REF] = {"files": {}, "states": ["BLOBS_RECEIVED"]}
    monkeypatch.setattr(uploading, "MINUTES", 1.0)
    status, text, _ = upload()
    assert status == 75 and "is BLOBS_RECEIVED after 1 min" in text


def test_a_dataset_that_failed_is_an_error(stand_in, upload):
    stand_in.datasets[REF] = {"files": {}, "states": ["FAILED"]}
    status, text, _ = upload()
    assert status == 1 and "is FAILED" in text


@pytest.mark.parametrize("ref", ["me", "me/abc", "me/Salt_Weights", "/salt-weights"])
def test_a_name_that_kaggle_would_change_is_refused(stand_in, upload, ref):
    status, text, _ = upload("--dataset", ref)
    assert status == 1 and "must be owner/slug" in text and not stand_in.calls("StartBlobUpload")


def test_files_that_cannot_be_one_dataset_are_refused(stand_in, weights, upload, tmp_path, capsys):
    (tmp_path / "empty.h5").touch()
    bads = (tmp_path / "empty.h5", "is empty"), (tmp_path / "no.h5", "is no file"), (weights[0], "twice")
    for bad, message in bads:
        assert upload_weights.main([str(weights[0]), str(bad), "--runs", str(tmp_path / "runs")], make_link()) == 1
        assert message in capsys.readouterr().err


KILLS = [("CreateDataset", "hang_after")]
MORE_KILLS = [("GetDatasetStatus", "hang"), ("StartBlobUpload", "hang"), ("PUT /upload/blob-1", "hang"),
              ("PUT /upload/blob-1", "hang_after"), ("ListDatasetFiles", "hang")]  # fmt: skip


@pytest.mark.parametrize(
    ("stage", "kind"), [*KILLS, *(pytest.param(*kill, marks=pytest.mark.slow) for kill in MORE_KILLS)]
)
def test_after_kill_9_the_same_command_makes_one_dataset(stand_in, weights, upload, stage, kind, tmp_path):
    stand_in.fault(stage, kind)
    kill_when_reached(stand_in, start_script(stand_in, "upload_weights.py", *weights, "--runs", tmp_path / "runs"))
    assert upload()[0] == 0
    assert len(stand_in.calls("CreateDataset")) == 1 and uploaded(stand_in, weights)
