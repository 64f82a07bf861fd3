"""The machine that a process runs on, and what it sets before it imports TensorFlow."""

import os
import pathlib
import platform
import subprocess
import sys

import pytest

from salt import machine
from salt.machine import GpuError, describe_machine, fast_switches, multiplies_bfloat16, usable_cores, widest_vectors

ROOT = pathlib.Path(__file__).resolve().parents[1]
NO_QUOTA = "/nowhere"


@pytest.fixture
def cgroups(tmp_path):
    """Writes files as Linux shows a container's quota, and returns their folder."""

    def write(**files):
        for name, text in files.items():
            path = (
                tmp_path / {"v2": "cpu.max", "quota": "cpu/cpu.cfs_quota_us", "period": "cpu/cpu.cfs_period_us"}[name]
            )
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        return str(tmp_path)

    return write


@pytest.fixture
def eight_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)


def test_cores_are_those_of_the_affinity(eight_cores):
    assert usable_cores(NO_QUOTA) == 8


def test_cores_are_counted_where_a_system_knows_no_affinity(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert usable_cores(NO_QUOTA) == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores(NO_QUOTA) == 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system knows no affinity")
def test_a_process_that_is_kept_to_one_core_counts_one():
    one = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, [{one}]); from salt.machine import usable_cores; print(usable_cores())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1"]


@pytest.mark.parametrize(
    "files, cores",
    [
        ({"v2": "200000 100000\n"}, 2),
        ({"v2": "150000 100000\n"}, 2),
        ({"v2": "50000 100000\n"}, 1),
        ({"v2": "9900000 100000\n"}, 8),
        ({"v2": "max 100000\n"}, 8),
        ({"quota": "300000\n", "period": "100000\n"}, 3),
        ({"quota": "-1\n", "period": "100000\n"}, 8),
        ({"quota": "300000\n"}, 8),
    ],
)
def test_a_containers_quota_limits_the_cores(eight_cores, cgroups, files, cores):
    assert usable_cores(cgroups(**files)) == cores


def test_a_variable_that_is_set_stays():
    own = {"TF_ENABLE_ONEDNN_OPTS": "0", "TF_NUM_INTRAOP_THREADS": "7", "TF_CPP_MIN_LOG_LEVEL": "0"}
    assert set(fast_switches(own)) == {"TF_NUM_INTEROP_THREADS"}
    assert fast_switches({**own, **fast_switches(own)}) == {}


@pytest.mark.parametrize(
    "processor, expected", [("x86_64", "1"), ("AMD64", "1"), ("aarch64", None), ("arm64", None), ("", None)]
)
def test_onednn_is_switched_on_for_every_x86_processor_and_no_other(monkeypatch, processor, expected):
    monkeypatch.setattr(platform, "machine", lambda: processor)
    assert fast_switches({}).get("TF_ENABLE_ONEDNN_OPTS") == expected


@pytest.mark.parametrize(
    "flags, label",
    [
        ("fpu sse2 avx avx2 fma", "AVX2"),
        ("fpu sse2 avx", "AVX"),
        ("fpu sse2", ""),
        ("avx avx2 avx512f avx512bw", "AVX-512"),
        ("avx avx2 avx512f avx512_vnni", "AVX-512 VNNI"),
        ("avx avx2 avx512f avx512_vnni amx_tile", "AMX"),
    ],
)
def test_the_widest_vectors_are_named(tmp_path, flags, label):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nmodel name\t: avx512f by name\nflags\t\t: {flags}\nbugs\t\t:\n")
    assert widest_vectors(str(tmp_path / "cpuinfo")) == label


@pytest.mark.parametrize(
    ("flags", "multiplies"), [("avx512f avx512_vnni", False), ("avx512_bf16", True), ("amx_tile amx_bf16", True)]
)
def test_what_multiplies_bfloat16_is_known(tmp_path, flags, multiplies):
    (tmp_path / "cpuinfo").write_text(f"model name\t: amx_bf16 by name\nflags\t\t: fpu {flags}\n")
    assert multiplies_bfloat16(str(tmp_path / "cpuinfo")) is multiplies
    assert not multiplies_bfloat16(str(tmp_path / "none"))


def test_the_machine_is_described_in_one_line(tmp_path):
    (tmp_path / "cpuinfo").write_text("flags\t\t: fpu avx2\n")

    def line(**environment):
        return describe_machine(environment, str(tmp_path / "cpuinfo"))

    assert line(TF_ENABLE_ONEDNN_OPTS="1", TF_NUM_INTRAOP_THREADS="2") == "oneDNN on, AVX2, 2 threads"
    assert line(TF_ENABLE_ONEDNN_OPTS="0", TF_NUM_INTRAOP_THREADS="1") == "oneDNN off, AVX2, 1 thread"
    assert line(TF_NUM_INTRAOP_THREADS="4") == "oneDNN as TensorFlow chooses, AVX2, 4 threads"
    assert describe_machine({"TF_NUM_INTRAOP_THREADS": "4"}, str(tmp_path / "none")).endswith("chooses, 4 threads")


def test_tensorflow_takes_the_switches_and_starts_without_a_word():
    code = (
        "import os; from salt.machine import fast_switches, quiet_stderr\n"
        "os.environ.update(fast_switches(os.environ))\n"
        "with quiet_stderr(): import tensorflow as tf\n"
        "from tensorflow.python.util import _pywrap_util_port\n"
        "tf.config.list_physical_devices('GPU'); print(_pywrap_util_port.IsMklEnabled())"
    )
    names = set(fast_switches({}))
    environment = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(platform.machine() in ("x86_64", "AMD64"))]
    assert done.stderr == ""


def run_quietly(block):
    code = "import os, sys; from salt.machine import quiet_stderr\n"
    code += f"with quiet_stderr():\n    {block}\nos.write(2, b'after')"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)


def test_what_is_held_back_is_dropped_when_the_block_ends_well():
    done = run_quietly("os.write(2, b'by a library'); print('by python', file=sys.stderr)")
    assert done.returncode == 0 and done.stderr == "after"


def test_what_is_held_back_is_shown_when_the_block_fails():
    done = run_quietly("os.write(2, b'by a library '); import no_such_module")
    assert done.returncode == 1 and "after" not in done.stderr
    assert "by a library" in done.stderr and "No module named 'no_such_module'" in done.stderr


@pytest.mark.parametrize(
    "program, gpus",
    [("print('gpu:0', 'gpu:1')", ["0", "1"]), ("print('cpu:0')", []), ("raise SystemExit('no driver')", None)],
)
def test_another_process_is_asked_for_the_gpus_since_who_asks_holds_their_memory(monkeypatch, program, gpus):
    monkeypatch.setattr(machine.shutil, "which", lambda name: name)
    monkeypatch.setattr(machine, "GPUS_PROGRAM", program)
    visible_gpus = machine.visible_gpus.__wrapped__  # each time anew
    if gpus is None:
        with pytest.raises(GpuError, match="cannot be asked for its GPUs: no driver"):
            visible_gpus()
    else:
        assert visible_gpus() == gpus


def test_without_a_driver_nobody_is_asked_for_gpus(monkeypatch):
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    monkeypatch.setattr(machine.subprocess, "run", None)
    assert machine.visible_gpus.__wrapped__() == []


def test_what_the_backend_says_of_a_gpu_that_it_does_not_see_is_shown(monkeypatch, capsys):
    monkeypatch.setattr(machine.shutil, "which", lambda name: name)
    program = "import os, sys; print('level', os.environ['TF_CPP_MIN_LOG_LEVEL'], file=sys.stderr); print('cpu:0')"
    monkeypatch.setattr(machine, "GPUS_PROGRAM", program)
    assert machine.visible_gpus.__wrapped__() == []
    assert capsys.readouterr().out == "nvidia-smi is here, but Keras sees no GPU:\n  level 0\n"
