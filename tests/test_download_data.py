import io
import zipfile

import kaggle_stand_in
import pytest
from kaggle_stand_in import COMPETITION, assert_no_secret, kill_when_reached, make_link, start_script

from desk import competition_data
from desk.kaggle import files as kaggle_files
from salt.competition import find_competition
from salt.data import read_train
from salt.tgs import COMPETITION as TGS
from scripts import download_data

stand_in = kaggle_stand_in.stand_in


@pytest.fixture
def files(stand_in, synthetic_folder):
    found = {path.name: path.read_bytes() for path in sorted(synthetic_folder.iterdir()) if path.is_file()}
    stand_in.competitions[COMPETITION] = found
    return found


@pytest.fixture
def download(stand_in, files, tmp_path, capsys):
    def call(*arguments, link=None):
        link = link or make_link(seconds=1.0)
        status = download_data.main(["--out", str(tmp_path / "data"), *arguments], link)
        captured = capsys.readouterr()
        text = captured.out + captured.err + "\n".join(link.said)
        assert_no_secret(tmp_path / "data", text=text)
        return status, text, link

    return call


def test_the_files_come_in_the_layout_that_is_read(stand_in, files, download, tmp_path):
    status, text, _ = download()
    assert status == 0 and "ready: " in text and text.count("downloaded") == len(files)
    assert len(read_train(find_competition([tmp_path / "data"], TGS), progress=False).ids) == 40
    assert {path.name for path in (tmp_path / "data").iterdir()} == set(files)


def test_what_is_there_is_not_downloaded_again(stand_in, files, download):
    download()
    before = len(stand_in.calls("DownloadDataFile"))
    status, text, _ = download()
    assert status == 0 and text.count("was there") == len(files)
    assert len(stand_in.calls("DownloadDataFile")) == before


def test_a_cut_download_goes_on_where_it_was(stand_in, files, download, tmp_path):
    stand_in.fault("GET /files/data/train.zip", "cut_after", times=2)  # the look at it, and the first transfer
    status, _, _ = download()
    assert status == 0
    ranges = [headers["Range"] for name, headers, _ in stand_in.requests if "Range" in headers]
    assert ranges and all(1 < int(value[6:-1]) < len(files["train.zip"]) for value in ranges)
    assert (tmp_path / "data" / "train.zip").read_bytes() == files["train.zip"]


def test_a_file_that_changed_meanwhile_is_begun_anew(stand_in, files, download, tmp_path):
    stand_in.fault("GET /files/data/train.zip", "cut_after", times=99)
    assert download()[0] == 75
    assert (tmp_path / "data" / ".train.zip.part").stat().st_size > 0
    stand_in.faults.clear()
    files["train.zip"] = files["test.zip"]
    download()
    assert (tmp_path / "data" / "train.zip").read_bytes() == files["test.zip"]


def test_a_table_that_changed_meanwhile_is_not_pasted_together(stand_in, files, download, tmp_path, monkeypatch):
    monkeypatch.setattr(kaggle_files, "CHUNK", 100)
    stand_in.fault("GET /files/data/train.csv", "cut_after", times=99)
    assert download()[0] == 75
    assert (tmp_path / "data" / ".train.csv.part").stat().st_size >= 100
    stand_in.faults.clear()
    files["train.csv"] = files["train.csv"].replace(b" ", b"  ", 1)[:-1].upper()  # other bytes, of the same number
    assert download()[0] == 0
    assert (tmp_path / "data" / "train.csv").read_bytes() == files["train.csv"]


def test_rules_that_are_not_accepted_are_named_with_their_page(stand_in, files, download, tmp_path):
    stand_in.accepted_rules = False
    status, text, _ = download()
    assert status == 1 and f"accept its rules once at https://www.kaggle.com/competitions/{COMPETITION}/rules" in text
    assert not (tmp_path / "data").exists()


def test_a_file_of_another_size_than_listed_is_thrown_away(stand_in, files, download, tmp_path, monkeypatch):
    monkeypatch.setattr(competition_data, "TRIES", 2)
    original = stand_in.url
    stand_in.url = lambda name, body: original(name, body + b"!" if name.endswith("depths.csv") else body)
    status, text, _ = download()
    assert status == 1 and "Kaggle lists" in text and not (tmp_path / "data" / "depths.csv").exists()


def test_a_damaged_zip_is_thrown_away(stand_in, files, download, tmp_path, monkeypatch):
    monkeypatch.setattr(competition_data, "TRIES", 2)
    whole = files["test.zip"]
    files["test.zip"] = whole[:200] + b"\0" * 50 + whole[250:]
    status, text, _ = download()
    assert status == 1 and "test.zip: " in text and not (tmp_path / "data" / "test.zip").exists()


def test_a_csv_that_comes_packed_is_unpacked(stand_in, files, download, tmp_path):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train.csv", files["train.csv"])
    original = stand_in.url

    def url(name, body):
        return original(f"{name}.zip", packed.getvalue()) if name == "data/train.csv" else original(name, body)

    stand_in.url = url
    assert download()[0] == 0
    assert (tmp_path / "data" / "train.csv").read_bytes() == files["train.csv"]
    assert "was there" in download()[1]


def test_a_name_that_leads_elsewhere_is_refused(stand_in, files, download, tmp_path):
    files["../evil.csv"] = b"x"
    status, text, _ = download()
    assert status == 1 and "leads out of" in text and not (tmp_path / "evil.csv").exists()


KILLS = ["GET /files/data/train.zip"]
MORE_KILLS = ["ListDataFiles", "DownloadDataFile", "GET /files/data/sample_submission.csv"]


@pytest.mark.parametrize("stage", [*KILLS, *(pytest.param(kill, marks=pytest.mark.slow) for kill in MORE_KILLS)])
def test_after_kill_9_the_same_command_goes_on(stand_in, files, download, stage, tmp_path):
    stand_in.fault(stage, "hang")
    kill_when_reached(stand_in, start_script(stand_in, "download_data.py", "--out", tmp_path / "data"))
    assert download()[0] == 0
    assert {path.name for path in (tmp_path / "data").iterdir()} == set(files)
