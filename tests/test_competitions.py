import pytest

from desk.competitions import competition_of, find_description, load_competition
from desk.errors import ConfigurationError
from salt.tgs import COMPETITION as TGS


def test_a_competition_is_found_by_its_module_its_slug_and_by_the_path_of_a_file(tmp_path):
    assert load_competition("tgs") is load_competition(TGS.slug) is competition_of({}) is TGS
    own = tmp_path / "snails.py"
    own.write_text(
        "import dataclasses\nfrom salt.tgs import COMPETITION as OTHER\n"
        "COMPETITION = dataclasses.replace(OTHER, slug='snails')\n"
    )
    assert load_competition(str(own)).slug == "snails"


def test_what_is_described_nowhere_is_refused_with_what_there_is(tmp_path):
    with pytest.raises(ConfigurationError, match="competition 'snails' is not described: salt/ describes .*tgs"):
        find_description("snails")
    empty = tmp_path / "empty.py"
    empty.write_text("")
    with pytest.raises(ConfigurationError, match="has no COMPETITION"):
        load_competition(str(empty))
