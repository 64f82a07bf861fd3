import tracemalloc

import numpy as np
import pytest

from salt.rle import (
    RLE_CHUNK,
    RLEError,
    count_marked,
    decode_rle,
    decode_rles,
    encode_rle,
    encode_rles,
    number_lines,
)

TILE = (101, 101)


def random_masks(count, shape=(101, 101), seed=0):
    """Blobs of every coverage, some empty, some full, some noise."""
    generator = np.random.default_rng(seed)
    height, width = shape
    y, x = np.mgrid[:height, :width]
    masks = []
    for index in range(count):
        cy, cx = generator.uniform(0, height), generator.uniform(0, width)
        mask = (y - cy) ** 2 + (x - cx) ** 2 < (generator.uniform(0, 1.2) * height) ** 2
        if index % 5 == 0:
            mask = generator.random(shape) < 0.3
        if index % 7 == 0:
            mask[:] = index % 2
        masks.append(mask)
    return np.array(masks).reshape(count, height, width).astype(np.uint8)


def slow_encode(mask):
    """One pixel after the other, from the competition's description."""
    runs, previous = [], 0
    for number, value in enumerate(mask.flatten(order="F").tolist(), start=1):
        if value and not previous:
            runs += [number, 0]
        if value:
            runs[-1] += 1
        previous = value
    return " ".join(map(str, runs))


def test_pixels_are_numbered_top_down_then_left_right_from_one():
    mask = np.zeros((3, 4), np.uint8)
    mask[1, 0] = 1  # second pixel of the first column
    mask[:2, 2] = 1  # seventh and eighth
    assert encode_rle(mask) == "2 1 7 2"
    assert decode_rle("2 1 7 2", shape=(3, 4)).tolist() == mask.tolist()


def test_a_run_goes_on_from_the_bottom_of_a_column_to_the_top_of_the_next():
    mask = np.array([[0, 1], [0, 0], [1, 0]])
    assert encode_rle(mask) == "3 2"
    assert decode_rle("3 2", shape=(3, 2)).tolist() == mask.tolist()


def test_an_empty_mask_is_the_empty_string_and_a_full_one_a_single_run():
    assert encode_rle(np.zeros((101, 101), np.uint8)) == ""
    assert encode_rle(np.ones((101, 101), np.uint8)) == "1 10201"
    assert decode_rle("1 10201", TILE).all()


def test_first_and_last_pixel_of_neighbouring_masks_stay_apart():
    masks = np.zeros((3, 4, 4), np.uint8)
    masks[0, 3, 3] = masks[1, 0, 0] = masks[1, 3, 3] = masks[2, 0, 0] = 1
    assert encode_rles(masks) == ["16 1", "1 1 16 1", "1 1"]
    assert np.array_equal(decode_rles(["16 1", "1 1 16 1", "1 1"], (4, 4)), masks)


@pytest.mark.parametrize("shape", [(101, 101), (7, 13), (1, 5), (5, 1)])
def test_a_stack_longer_than_a_chunk_agrees_with_the_slow_encoder_and_comes_back(shape):
    masks = random_masks(RLE_CHUNK + 40, shape)
    rles = encode_rles(masks)
    assert rles == [slow_encode(mask) for mask in masks]
    decoded = decode_rles(rles, shape)
    assert decoded.dtype == np.uint8 and decoded.flags.c_contiguous
    assert np.array_equal(decoded, masks)


def test_a_large_mask_costs_memory_for_its_pixels_once_and_not_for_the_texts_of_their_numbers():
    masks = np.zeros((3, 2000, 2000), np.uint8)
    masks[:, 5:50, 7:60] = 1
    tracemalloc.start()
    rles = encode_rles(masks)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rles[0].split()) == 2 * 53 and np.array_equal(decode_rles(rles, (2000, 2000)), masks)
    assert peak < 4 * masks[0].size  # bytes a pixel


def test_numbers_of_any_length_are_written_as_python_writes_them():
    numbers = np.array([0, 7, 10, 99, 100, 999, 1000, 1001, 10_000, 99_999, 100_000, 1_000_000, 12_000_345, 2**31 - 1])
    assert number_lines(numbers, np.array([0, 3, 0, len(numbers) - 3])) == [
        "", "0 7 10", "", " ".join(map(str, numbers[3:].tolist()))
    ]  # fmt: skip
    assert number_lines(np.array([0, 1000]), np.array([1, 1])) == ["0", "1000"]


def test_one_mask_and_a_stack_give_the_same():
    masks = random_masks(12)
    assert [encode_rle(mask) for mask in masks] == encode_rles(masks)
    assert np.array_equal(np.stack([decode_rle(rle, TILE) for rle in encode_rles(masks)]), masks)


def test_boolean_masks_are_masks():
    mask = np.eye(4, dtype=bool)
    assert encode_rle(mask) == encode_rle(mask.astype(np.uint8)) == "1 1 6 1 11 1 16 1"


@pytest.mark.parametrize("shape", [(2,), (2, 2, 1), (2.0, 2), (2, -1)])
def test_what_is_no_shape_is_refused(shape):
    with pytest.raises(RLEError, match="must be height and width, two whole numbers"):
        decode_rle("1 2", shape)


def test_an_empty_stack_gives_nothing():
    assert encode_rles(np.zeros((0, 101, 101), np.uint8)) == []
    assert decode_rles([], TILE).shape == (0, 101, 101)


@pytest.mark.parametrize("empty", ["", " ", None, float("nan"), np.nan])
def test_missing_text_is_an_empty_mask_wherever_it_stands(empty):
    assert not decode_rle(empty, TILE).any()
    masks = decode_rles([empty, "1 2", empty, empty, "3 4", empty], TILE)
    assert masks.sum(axis=(1, 2)).tolist() == [0, 2, 0, 0, 4, 0]


def test_runs_that_touch_are_legal():
    assert np.array_equal(decode_rle("1 2 3 4", (3, 3)), decode_rle("1 6", (3, 3)))


def test_spaces_around_and_between_the_numbers_do_not_matter():
    assert np.array_equal(decode_rles(["  1  2 ", " 8 1"], (3, 3)), decode_rles(["1 2", "8 1"], (3, 3)))


BAD = {
    "an odd count of numbers": ("1 2 5", "3 numbers"),
    "a single number": ("5", "1 numbers"),
    "a start of zero": ("0 2", "run 1 (start 0, length 2) starts below 1"),
    "a negative start": ("-3 2", "-3 is negative"),
    "a length of zero": ("1 2 5 0", "run 2 (start 5, length 0) has a length below 1"),
    "a negative length": ("1 -2", "-2 is negative"),
    "an overlap": ("1 4 4 2", "run 2 (start 4, length 2) overlaps"),
    "the same start twice": ("1 1 1 1", "run 2 (start 1, length 1) overlaps"),
    "a run one pixel past the end": ("10200 3", "run 1 (start 10200, length 3) goes past the end: the tile has 10201"),
    "a start past the end": ("10202 1", "goes past the end"),
    "a number too large for the machine": ("1 99999999999999999999999", "length 99999999999999999999999) goes past"),
    "a sum too large for the machine": ("9223372036854775807 9223372036854775807", "goes past the end"),
    "unsorted runs": ("10 2 1 2", "run 2 (start 1, length 2) starts before"),
    "a word": ("1 two", "'two' is not a number"),
    "a decimal": ("1 2.0", "'2.0' is not a number"),
    "a number with a sign inside": ("1 5-3", "'5-3' is not a number"),
    "a plus sign": ("+1 2", "'+1' is not a number"),
    "commas": ("1,2", "'1,2' is not a number"),
    "a tab": ("1\t2", r"'1\t2' is not a number"),
    "a line break": ("1\n2", r"'1\n2' is not a number"),
    "digits of another script": ("1 ٣", "'٣' is not a number"),
    "a value that is not text": (5, "5 is of type int"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_text_is_refused_and_the_message_shows_what_is_wrong(name):
    rle, message = BAD[name]
    with pytest.raises(RLEError) as error:
        decode_rle(rle, TILE)
    assert message in str(error.value)


@pytest.mark.parametrize("name", BAD)
def test_in_a_stack_bad_text_is_refused_under_its_id_or_its_index(name):
    rle, message = BAD[name]
    rles = ["", "10 2 20 3", None, *["5 5"] * RLE_CHUNK, rle, "7 1"]
    bad = 3 + RLE_CHUNK
    with pytest.raises(RLEError) as error:
        decode_rles(rles, TILE)
    assert str(error.value).startswith(f"row {bad}: ") and message in str(error.value)
    with pytest.raises(RLEError) as error:
        decode_rles(rles, TILE, ids=np.array([f"tile{row}" for row in range(len(rles))]))
    assert str(error.value).startswith(f"id 'tile{bad}': ") and message in str(error.value)


def test_a_row_may_begin_before_the_row_above_it_ends():
    assert decode_rles(["10 5", "1 2", "1 2"], TILE).sum(axis=(1, 2)).tolist() == [5, 2, 2]


def test_the_last_pixel_is_within_the_tile():
    assert decode_rle("10201 1", TILE)[100, 100] == 1
    assert decode_rle("10200 2", TILE).sum() == 2


def test_names_must_be_as_many_as_encodings():
    with pytest.raises(RLEError, match="2 names for 1 encodings"):
        decode_rles(["1 1"], TILE, ids=["a", "b"])


@pytest.mark.parametrize(
    "masks, message",
    [
        (np.full((1, 3, 3), 255, np.uint8), "holds the value 255"),
        (np.full((1, 3, 3), -1, np.int64), "holds the value -1"),
        (np.full((1, 3, 3), 0.5), "not float64"),
        (np.zeros((3, 3), np.uint8), r"must have shape \[N, H, W\], not \(3, 3\)"),
        (np.zeros((1, 3, 3, 1), np.uint8), r"not \(1, 3, 3, 1\)"),
    ],
)
def test_what_is_not_a_stack_of_masks_is_not_encoded(masks, message):
    with pytest.raises(RLEError, match=message):
        encode_rles(masks)


def test_a_stack_is_not_taken_for_one_mask():
    with pytest.raises(RLEError, match="encode_rles"):
        encode_rle(np.zeros((1, 3, 3), np.uint8))


@pytest.mark.parametrize("by_rows", [False, True])
def test_pixels_are_numbered_along_the_rows_where_a_competition_does_so(by_rows):
    masks = random_masks(300, (5, 7))
    texts = [slow_encode(mask.T if by_rows else mask) for mask in masks]
    assert encode_rles(masks, by_rows) == texts
    np.testing.assert_array_equal(decode_rles(texts, (5, 7), by_rows=by_rows), masks)


def test_marked_pixels_are_counted_once_whatever_number_of_run_lengths_marks_them():
    rng = np.random.default_rng(0)
    masks = random_masks(700, (6, 9))
    owners = rng.integers(0, 300, 700)
    texts = encode_rles(masks)
    marked, overlapping = count_marked(texts, 54, np.arange(700), owners)
    for owner in range(300):
        parts = masks[owners == owner]
        assert marked[owner] == parts.any(axis=0).sum() if len(parts) else marked[owner] == 0
        assert overlapping[owner] == (parts.sum(axis=0) > 1).any()
    assert count_marked(["", "0 54"], 54, ["a", "b"], np.array([0, 2]), first=0)[0].tolist() == [0, 0, 54]
    with pytest.raises(RLEError, match="id 'b': run 1 .* goes past the end"):
        count_marked(["1 2", "54 2"], 54, ["a", "b"], np.array([0, 0]))
