import numpy as np
import pytest

from salt.submission import SubmissionError, check_submission, write_submission
from salt.tgs import COMPETITION as TGS


def some_masks(count=4):
    masks = np.zeros((count, 101, 101), np.uint8)
    masks[1, 0, 0] = masks[1, 1, 0] = 1
    masks[2, :, 1] = 1
    masks[3] = 1
    return masks


def write_lines(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.fixture
def sample(tmp_path):
    return write_lines(tmp_path / "sample_submission.csv", "id,rle_mask", "a,1 1", "b,1 1", "c,1 1", "d,1 1")


def test_a_submission_has_a_row_for_each_tile_in_the_order_given(tmp_path):
    path = tmp_path / "out" / "submission.csv"
    write_submission(path, np.array(["c", "a", "d", "b"]), some_masks(), TGS)
    assert path.read_bytes() == b"id,rle_mask\nc,\na,1 2\nd,102 101\nb,1 10201\n"


def test_a_submission_just_written_passes_and_its_summary_is_true(tmp_path, sample):
    write_submission(tmp_path / "submission.csv", ["d", "c", "b", "a"], some_masks(), TGS)
    summary = check_submission(tmp_path / "submission.csv", sample, TGS)
    assert summary == {"rows": 4, "empty_share": 0.25, "mean_coverage": pytest.approx((2 + 101 + 10201) / 4 / 10201)}


def test_ids_that_look_like_numbers_or_missing_values_stay_the_text_they_are(tmp_path):
    ids = ["00012e10", "1e5", "NA", "nan"]
    sample = write_lines(tmp_path / "sample.csv", "id,rle_mask", *(f"{name}," for name in ids))
    write_submission(tmp_path / "submission.csv", ids, some_masks(), TGS)
    assert check_submission(tmp_path / "submission.csv", sample, TGS)["rows"] == 4
    wrong = write_lines(tmp_path / "wrong.csv", "id,rle_mask", "12e10,", "100000.0,", "NA,", "nan,")
    with pytest.raises(SubmissionError, match="missing 2: 00012e10, 1e5; extra 2: 100000.0, 12e10"):
        check_submission(wrong, sample, TGS)


def test_missing_extra_and_repeated_ids_are_named_together_with_both_row_counts(tmp_path, sample):
    path = write_lines(tmp_path / "submission.csv", "id,rle_mask", "a,", "b,", "b,1 1", "x,", "d,")
    with pytest.raises(SubmissionError) as error:
        check_submission(path, sample, TGS)
    for part in ("rows 5, in sample_submission.csv 4", "missing 1: c", "extra 1: x", "repeated 1: b (2 times)"):
        assert part in str(error.value)


def test_of_many_wrong_ids_five_are_named_and_the_others_counted(tmp_path):
    sample = write_lines(tmp_path / "sample.csv", "id,rle_mask", *(f"t{index:02}," for index in range(9)))
    path = write_lines(tmp_path / "submission.csv", "id,rle_mask", "t08,")
    with pytest.raises(SubmissionError, match="missing 8: t00, t01, t02, t03, t04 and 3 more$"):
        check_submission(path, sample, TGS)


def test_a_repeated_id_is_refused_even_if_the_ids_are_the_sample_s_otherwise(tmp_path, sample):
    path = write_lines(tmp_path / "submission.csv", "id,rle_mask", "a,", "b,", "c,", "d,", "d,")
    with pytest.raises(SubmissionError, match=r"rows 5.*repeated 1: d \(2 times\)"):
        check_submission(path, sample, TGS)


@pytest.mark.parametrize("header", ["id,rle", "rle_mask,id", "ID,rle_mask", "id,rle_mask,score", "a,1 1"])
def test_another_header_is_refused_and_shown(tmp_path, sample, header):
    path = write_lines(tmp_path / "submission.csv", header, "a,", "b,", "c,", "d,")
    with pytest.raises(SubmissionError) as error:
        check_submission(path, sample, TGS)
    assert repr(header) in str(error.value) and "'id,rle_mask'" in str(error.value)


@pytest.mark.parametrize(
    "rle, message",
    [
        ("1 2 3", "3 numbers"),
        ("0 2", "starts below 1"),
        ("10201 2", "goes past the end"),
        ("5 5 1 1", "must be sorted"),
        ("1 5 3 5", "overlaps"),
        ("1 -5", "-5 is negative"),
        ("nan", "'nan' is not a number"),
    ],
)
def test_a_bad_encoding_is_refused_under_its_id(tmp_path, sample, rle, message):
    path = write_lines(tmp_path / "submission.csv", "id,rle_mask", "a,1 1", "b,", f"c,{rle}", "d,")
    with pytest.raises(SubmissionError) as error:
        check_submission(path, sample, TGS)
    assert "submission.csv: id 'c'" in str(error.value) and message in str(error.value)


@pytest.mark.parametrize("line", ["c", "c,1 1,2 2", ",1 1", ""])
def test_a_line_that_is_no_row_is_refused_by_its_number(tmp_path, sample, line):
    path = write_lines(tmp_path / "submission.csv", "id,rle_mask", "a,1 1", "b,", line, "d,")
    with pytest.raises(SubmissionError, match="line 4 is "):
        check_submission(path, sample, TGS)


def test_files_that_are_missing_empty_or_not_text_are_refused(tmp_path, sample):
    with pytest.raises(SubmissionError, match="nowhere.csv: no such file"):
        check_submission(tmp_path / "nowhere.csv", sample, TGS)
    with pytest.raises(SubmissionError, match="the first line is ''"):
        check_submission(write_lines(tmp_path / "empty.csv"), sample, TGS)
    with pytest.raises(SubmissionError, match="no rows under its header"):
        check_submission(write_lines(tmp_path / "header.csv", "id,rle_mask"), sample, TGS)
    (tmp_path / "binary.csv").write_bytes(b"id,rle_mask\n\xff\xfe,1 1\n")
    with pytest.raises(SubmissionError, match="no readable CSV"):
        check_submission(tmp_path / "binary.csv", sample, TGS)


@pytest.mark.parametrize(
    "masks, message",
    [
        (np.zeros((4, 128, 128), np.uint8), "crop the padding off"),
        (np.zeros((4, 101, 101, 1), np.uint8), r"\[N, H, W\]"),
        (np.full((4, 101, 101), 255, np.uint8), "the value 255"),
        (np.full((4, 101, 101), np.nan, np.float32), "not float32 with NaN"),
        (np.full((4, 101, 101), 0.7, np.float32), "become masks by binarize"),
        (np.zeros((3, 101, 101), np.uint8), "4 ids for 3 masks"),
    ],
)
def test_what_are_not_the_tiles_masks_is_not_written(tmp_path, masks, message):
    with pytest.raises(SubmissionError, match=message):
        write_submission(tmp_path / "submission.csv", ["a", "b", "c", "d"], masks, TGS)
    assert not list(tmp_path.iterdir())


def test_repeated_and_empty_ids_are_not_written(tmp_path):
    with pytest.raises(SubmissionError, match=r"empty 1: row 3; repeated 1: a \(3 times\)"):
        write_submission(tmp_path / "submission.csv", ["a", "a", "a", ""], some_masks(), TGS)
    with pytest.raises(SubmissionError, match="0 ids for 0 masks"):
        write_submission(tmp_path / "submission.csv", [], some_masks()[:0], TGS)


def test_a_refused_submission_leaves_the_earlier_one_in_place(tmp_path):
    path = tmp_path / "submission.csv"
    write_submission(path, ["a", "b", "c", "d"], some_masks(), TGS)
    before = path.read_bytes()
    with pytest.raises(SubmissionError):
        write_submission(path, ["a", "b", "c", "c"], some_masks(), TGS)
    assert path.read_bytes() == before
