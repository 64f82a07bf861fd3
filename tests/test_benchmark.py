import pytest

from scripts import benchmark


@pytest.mark.slow  # it compiles a training step
def test_the_benchmark_prints_a_line_for_each_thing_it_measures(capsys):
    few = ["--masks", "6", "--tiles", "3", "--synthetic", "1", "--preset", "smoke", "--batch", "2", "--repeats", "1"]
    assert benchmark.main(few) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:22].strip() for line in lines[2:]] == [
        "encode RLE", "decode RLE", "sweep 255 levels", "draw synthetic tile", "training step of smoke",
    ]  # fmt: skip
    assert all(line.endswith("x") for line in [*lines[2:5], lines[6]])
