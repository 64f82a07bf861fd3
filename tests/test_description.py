import dataclasses

import numpy as np
import pytest

from salt.description import DescriptionError, Table
from salt.tgs import COMPETITION


def test_a_table_names_the_column_that_holds_a_thing():
    table = Table("t.csv", {"name_of": "{tile}_{class}", "pixels": "{mask}"})
    assert [table.column(what) for what in ("tile", "class", "mask")] == ["name_of", "name_of", "pixels"]
    with pytest.raises(DescriptionError, match=r"t\.csv: no column holds \{number\}; the columns are .*pixels"):
        table.column("number")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"channels": 4}, "channels=4: must be 1, grey, or 3"),
        ({"classes": ()}, r"classes=\(\): name at least one"),
        ({"classes": ("a", "a")}, "each of them once"),
        ({"classes": ("a", "b")}, r"train\.csv: no column holds \{class\}"),
        ({"train_table": Table("t.csv", {"id": "{tile}"})}, r"t\.csv: no column holds \{mask\}"),
    ],
)
def test_a_description_that_contradicts_itself_is_refused(changes, message):
    with pytest.raises(DescriptionError, match=message):
        dataclasses.replace(COMPETITION, **changes)


def test_images_of_several_sizes_have_no_one_size():
    assert COMPETITION.one_size() == COMPETITION.size
    with pytest.raises(DescriptionError, match="size=None, images of several sizes; this takes one size alone"):
        dataclasses.replace(COMPETITION, size=None).one_size()


def test_no_image_is_blank_where_the_competition_knows_none():
    assert dataclasses.replace(COMPETITION, blank=None).blank_images(np.zeros((3, 2, 2))).tolist() == [False] * 3
