"""What `flattener` offers to others besides a build: settings of a command line, the rules of Kaggle, its tables."""

import pytest
from test_build_kernel import write_files

from flattener.errors import BuildError
from flattener.kaggle import ACCELERATORS, RETIRED, SOURCES, kernel_problems
from flattener.library import Library, NameTables
from flattener.loading import Loader
from flattener.meanings import Meanings
from flattener.settings import SettingError, parse_settings, setting_text

VALUES = {
    "5": 5, "1e-3": 0.001, ".5": 0.5, "true": True, "True": True, "false": False, "False": False, "null": None,
    "None": None, "[0,1]": [0, 1], "(0, 1)": (0, 1), "{'a': 1}": {"a": 1}, "vgg16.h5": "vgg16.h5", "'5'": "5",
    '"a b"': "a b", "a b": "a b", "": "", "x=y": "x=y", "NaN": "NaN", "1e999": "1e999", "{1, 2}": "{1, 2}",
    "{[]: 1}": "{[]: 1}", "b'x'": "b'x'", "(" * 500: "(" * 500,
}  # fmt: skip


@pytest.mark.parametrize("text", VALUES)
def test_a_setting_has_the_value_that_json_or_python_gives_its_text(text):
    value = parse_settings([f"key={text}"])["key"]
    assert value == VALUES[text] and type(value) is type(VALUES[text])


def test_settings_come_one_by_one_or_several_at_once_and_the_last_counts():
    assert parse_settings([]) == {}
    assert parse_settings([["a=1", "b=2"], "c=3", ["a=4"]]) == {"a": 4, "b": 2, "c": 3}


@pytest.mark.parametrize("text", ["epochs", "=5", "", "two words=5", "--epochs=5"])
def test_what_is_not_a_setting_is_refused_by_its_text(text):
    with pytest.raises(SettingError, match="must be key=value, such as epochs=5") as error:
        parse_settings(["a=1", text])
    assert isinstance(error.value, ValueError) and f"--set {text}:" in str(error.value)


@pytest.mark.parametrize("value", [5, 0.001, True, None, [0, 1], {"a": "é"}, "text", "5", "True", "a b", "'", ""])
def test_the_text_of_a_setting_is_parsed_to_the_setting_again(value):
    assert parse_settings([setting_text("key", value)]) == {"key": value}


GOOD = {
    "competition_sources": ["tgs-salt-identification-challenge"],
    "dataset_sources": ["me/salt-weights", "Some_One/a/3"],
    "kernel_sources": ["train", "me/train-t4", "me/train-t4/12"],
    "model_sources": ["google/efficient-net/keras/b0.v1/2"],
}
BAD = {
    "competition_sources": ["me/tgs", "TGS", "https://kaggle.com/c/tgs"],
    "dataset_sources": ["weights", "datasets/a", "me/Weights", "datasets/me/weights", "me/weights/x"],
    "kernel_sources": ["abcd", "me/abcd", "code/me/train", "me/train/v2", "c/train-t4"],
    "model_sources": ["google/efficient-net", "google/efficient-net/keras/b0"],
}


def test_every_kind_of_source_has_names_that_kaggle_takes_and_others():
    assert GOOD.keys() == BAD.keys() == SOURCES.keys()
    assert kernel_problems("A kernel", "", GOOD) == []
    for key, names in BAD.items():
        for name in names:
            problems = kernel_problems("A kernel", "", {key: [name]})
            assert [f"{key}: {name!r} is no name that Kaggle takes" in each.reason for each in problems] == [True]


@pytest.mark.parametrize("title", ["abcd", "a" * 51, "K !!", "Kernel für Salz", ""])
def test_a_title_that_kaggle_would_refuse_is_a_problem(title):
    assert ["5 to 50 characters" in problem.reason for problem in kernel_problems(title, "", {})] == [True]


def test_a_machine_is_known_retired_or_unknown():
    for machine in ("", *ACCELERATORS):
        assert kernel_problems("A kernel", machine, {}) == []
    for machine in RETIRED:
        assert "retired" in kernel_problems("A kernel", machine, {})[0].reason
    problem = kernel_problems("A kernel", "NvidiaTeslaV100", {})[0]
    assert "not known" in problem.reason and "NvidiaTeslaT4" in problem.remedy


def test_no_phase_changes_what_an_earlier_one_found(tmp_path):
    files = {
        "main.py": "from pkg import config\nfrom pkg.star import *\nconfig.RATE = 2\nprint(config.RATE, ONE)\n",
        "pkg/__init__.py": "",
        "pkg/config.py": "RATE = 1\n",
        "pkg/star.py": "ONE = 1\n",
    }
    write_files(tmp_path, files)
    library = Library(tmp_path / "main.py", {"pkg": tmp_path / "pkg"}, "main.py")
    loader = Loader(library)
    meanings = Meanings(library, loader)
    assert "ONE" in loader.now.names["__main__"].bindings and "ONE" not in library.names("__main__").bindings
    assert [len(names["pkg.config"].bindings["RATE"]) for names in (meanings.names, loader.now.names)] == [2, 1]
    assert NameTables(library)["pkg.config"] is library.names("pkg.config")
    divided = library.with_apart(frozenset(["pkg.config"]))
    assert library.is_flat("pkg.config") and not divided.is_flat("pkg.config")
    assert divided.names("pkg.star") is library.names("pkg.star")


def test_an_error_of_a_build_names_the_module_to_blame(tmp_path):
    (tmp_path / "main.py").write_text("import pkg\nprint([pkg])\n")
    (tmp_path / "pkg.py").write_text("")
    entry = Library(tmp_path / "main.py", {"pkg": tmp_path / "pkg.py"}, "main.py").entry
    with pytest.raises(BuildError, match=r"main\.py:2: no\. Remedy: yes\.") as error:
        entry.refuse(entry.body[1], "no", "yes", blame="pkg")
    assert error.value.blame == "pkg"
