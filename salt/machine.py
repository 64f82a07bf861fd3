"""The machine that a process runs on, and what to set before TensorFlow is imported, so that it is used in full.

TensorFlow reads these variables once, when it is imported or when it runs its first operation. Whoever starts a process
asks `fast_switches` for them and puts them into the environment; processes that it starts inherit them. A variable that
is set already stays as it is. Nothing here changes the environment, and only `import_keras` imports TensorFlow.
"""

import contextlib
import functools
import math
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping

X86 = ("x86_64", "AMD64")
# From the widest vectors to the narrowest: what /proc/cpuinfo calls them, and how they are written.
VECTORS = {"amx_tile": "AMX", "avx512_vnni": "AVX-512 VNNI", "avx512f": "AVX-512", "avx2": "AVX2", "avx": "AVX"}

BFLOAT16 = ("amx_bf16", "avx512_bf16")

CGROUPS = "/sys/fs/cgroup"  # where Linux shows what a container may use
GPUS_PROGRAM = "import keras; print(*keras.distribution.list_devices())"
COMPLAINT_LINES = 12  # of what the backend says of a GPU that it cannot use


class GpuError(RuntimeError):
    """A GPU's driver is here, and Keras's backend fails."""


def usable_cores(cgroups: str = CGROUPS) -> int:
    """How many CPU cores this process may use: those of its affinity, and no more than the quota of its container.

    Args:
        cgroups: folder in which Linux shows the quota, of version 2 (`cpu.max`) or 1 (`cpu/cpu.cfs_quota_us`).

    Returns:
        At least 1; a quota of 1.5 cores counts as 2.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    folder = pathlib.Path(cgroups)
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        if all((folder / name).is_file() for name in names):
            words = " ".join((folder / name).read_text(encoding="ascii") for name in names).split()
            if len(words) == 2 and all(word.isdigit() for word in words):  # "max" and -1 mean that there is no quota
                cores = min(cores, math.ceil(int(words[0]) / int(words[1])))
    return max(cores, 1)


def fast_switches(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that make TensorFlow fast on this machine, and quiet at its start.

    - `TF_ENABLE_ONEDNN_OPTS=1` on every x86 processor. TensorFlow itself does so only where there is AVX-512 VNNI;
      elsewhere its own convolutions are slower, with thousands of page faults a step.
    - `TF_NUM_INTRAOP_THREADS` and `TF_NUM_INTEROP_THREADS`: the cores that this process may use. TensorFlow counts
      those of its affinity, but does not know the quota of a container.
    - `TF_CPP_MIN_LOG_LEVEL=3`: TensorFlow's libraries write a dozen lines at their start, errors among them that mean
      no more than that there is no GPU. What goes wrong later comes as an exception all the same.

    Args:
        environment: the variables that are set already: those of this process.

    Returns:
        The variables to set: names and values. Those in `environment` are not among them.

    Example:
        >>> fast_switches({"TF_ENABLE_ONEDNN_OPTS": "0", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"})
        {'TF_CPP_MIN_LOG_LEVEL': '3'}
    """
    threads = str(usable_cores())
    switches = {"TF_NUM_INTRAOP_THREADS": threads, "TF_NUM_INTEROP_THREADS": threads, "TF_CPP_MIN_LOG_LEVEL": "3"}
    if platform.machine() in X86:
        switches["TF_ENABLE_ONEDNN_OPTS"] = "1"
    return {name: value for name, value in switches.items() if name not in environment}


def describe_machine(environment: Mapping[str, str], cpuinfo: str = "/proc/cpuinfo") -> str:
    """What this process computes with, such as "oneDNN on, AVX2, 2 threads".

    Args:
        environment: of this process, with `fast_switches` in it.
        cpuinfo: the file in which Linux describes the processor; where there is none, its vectors are not told.
    """
    onednn = environment.get("TF_ENABLE_ONEDNN_OPTS")
    state = {None: "oneDNN as TensorFlow chooses", "0": "oneDNN off"}.get(onednn, "oneDNN on")
    threads = environment.get("TF_NUM_INTRAOP_THREADS", str(usable_cores()))
    parts = [state, widest_vectors(cpuinfo), f"{threads} threads" if threads != "1" else "1 thread"]
    return ", ".join(part for part in parts if part)


def widest_vectors(cpuinfo: str = "/proc/cpuinfo") -> str:
    """The widest vector instructions of this processor, such as "AVX2"; empty where the file does not say."""
    flags = processor_flags(cpuinfo)
    return next((label for flag, label in VECTORS.items() if flag in flags), "")


def multiplies_bfloat16(cpuinfo: str = "/proc/cpuinfo") -> bool:
    """Whether this processor has instructions that multiply bfloat16, without which it is slower than float32."""
    return not processor_flags(cpuinfo).isdisjoint(BFLOAT16)


def processor_flags(cpuinfo: str = "/proc/cpuinfo") -> set[str]:
    """What the processor can do, in Linux's words; empty where the file does not say."""
    path = pathlib.Path(cpuinfo)
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    found = re.search(r"^flags\s*:(.*)$", text, flags=re.MULTILINE)
    return set(found[1].split()) if found else set()


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Holds back what libraries write to standard error, for a block that imports TensorFlow.

    Some of TensorFlow's lines come before it reads `TF_CPP_MIN_LOG_LEVEL`. What was held back is dropped, but if the
    block fails, it is shown.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held, os.fdopen(os.dup(2), "wb") as stderr:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            stderr.write(held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(stderr.fileno(), 2)


def import_keras() -> None:
    """Imports Keras, and with it TensorFlow, without TensorFlow's first lines; what imports it later finds it there."""
    with quiet_stderr():
        import keras  # noqa: F401


def tensorflow_on_cpu() -> bool:
    """Whether Keras computes with TensorFlow, on a CPU: no GPU is there.

    TensorFlow alone is asked for its GPUs; JAX without one raises an error.
    """
    import keras

    return keras.backend.backend() == "tensorflow" and not keras.distribution.list_devices("gpu")


@functools.cache
def visible_gpus() -> list[str]:
    """The numbers of the GPUs that Keras's backend sees, asked in a process of its own.

    A process that asks holds the GPUs' memory until it ends, so this one must not, if others are to train on them.
    Where there is a driver and no GPU is seen, what the backend's libraries say of that is printed.

    Raises:
        GpuError: there is a GPU's driver, and the backend fails.
    """
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["env", "TF_CPP_MIN_LOG_LEVEL=0", sys.executable, "-c", GPUS_PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise GpuError(f"Keras cannot be asked for its GPUs: {done.stderr.strip()[-1000:]}")
    gpus = [name.rpartition(":")[2] for name in done.stdout.split() if name.startswith("gpu")]
    if not gpus:
        print("nvidia-smi is here, but Keras sees no GPU:", *done.stderr.splitlines()[-COMPLAINT_LINES:], sep="\n  ")
    return gpus
