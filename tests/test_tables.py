import dataclasses

import pytest

from salt.archives import DataError
from salt.description import Table
from salt.severstal import COMPETITION as SEVERSTAL
from salt.tables import fill_row, masks_of_rows, read_rows
from salt.tgs import COMPETITION as TGS


def masks_of(path, *lines, competition=SEVERSTAL, table=None):
    """What a table of these lines says."""
    path.write_text("".join(f"{line}\n" for line in lines))
    form, rows = read_rows(path, table or competition.train_table, competition)
    return masks_of_rows(path, form, rows, competition)


def test_both_published_forms_of_a_table_say_the_same_masks(tmp_path):
    joint = ["ImageId_ClassId,EncodedPixels", "a_b.jpg_1,", "a_b.jpg_2,1 2 5 1", "a_b.jpg_3,", "a_b.jpg_4,7 1"]
    apart = ["ImageId,ClassId,EncodedPixels", "a_b.jpg,2,1 2 5 1", "a_b.jpg,4,7 1"]
    expected = {"a_b": [[], ["1 2 5 1"], [], ["7 1"]]}
    assert masks_of(tmp_path / "t.csv", *joint) == masks_of(tmp_path / "t.csv", *apart) == expected
    assert masks_of(tmp_path / "t.csv", "EncodedPixels,ClassId,more,ImageId", "7 1,4,x,a_b.jpg")["a_b"][3] == ["7 1"]


def test_a_mask_of_several_objects_has_a_row_for_each_and_an_empty_one_the_empty_text(tmp_path):
    table = Table("t.csv", {"id": "{tile}", "rle_mask": "{mask}"}, objects=True, empty="-1")
    found = masks_of(tmp_path / "t.csv", "id,rle_mask", "a,1 2", "b,-1", "a,7 1", competition=TGS, table=table)
    assert found == {"a": [["1 2", "7 1"]], "b": [[]]}
    with pytest.raises(DataError, match="'b' has two rows, lines 2 and 3"):
        masks_of(tmp_path / "t.csv", "id,rle_mask", "b,1 2", "b,-1", competition=TGS, table=table)


@pytest.mark.parametrize(
    "lines, message",
    [
        (["ImageId,EncodedPixels", "a.jpg,"], r"columns \['ImageId', 'EncodedPixels'\] lack \['ImageId_ClassId'\]"),
        (["ImageId_ClassId,EncodedPixels", "a.png_1,"], r"line 2 has 'a.png_1' as ImageId_ClassId, .*'\{tile\}.jpg_"),
        (["ImageId_ClassId,EncodedPixels", "a.jpg_5,"], "line 2 is of class '5'; the description has 1, 2, 3, 4"),
        (["ImageId_ClassId,EncodedPixels", "a.jpg_1,", "a.jpg_1,"], "'a', class 1 has two rows, lines 2 and 3"),
        (["ImageId_ClassId,EncodedPixels", "a.jpg_1,"], "'a', class 2 has no row, nor 2 others"),
        (["ImageId_ClassId,EncodedPixels", "a.jpg_1"], "line 2 has 1 fields, the first line 2"),
        (["ImageId_ClassId,EncodedPixels"], "holds no rows"),
    ],
)
def test_a_table_that_the_description_does_not_fit_is_refused_with_what_is_there(tmp_path, lines, message):
    with pytest.raises(DataError, match=message):
        masks_of(tmp_path / "t.csv", *lines)


def test_a_row_is_filled_as_its_columns_say():
    assert fill_row(SEVERSTAL.train_table, "a", "3", "1 2") == ["a.jpg_3", "1 2"]
    assert fill_row(SEVERSTAL.train_table.others[0], "a", "3", "1 2") == ["a.jpg", "3", "1 2"]
    assert fill_row(dataclasses.replace(TGS.train_table, columns={"m": "{mask}", "i": "{tile}"}), "a", "", "1 2") == [
        "1 2",
        "a",
    ]
