"""C code beside the Python: compiled for this processor when it is first asked for, in a second or two."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from torch import Tensor


def compiler() -> str | None:
    """The C compiler: `CC` of the environment, or the machine's; None where there is none."""
    return os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")


@cache
def compiled(name: str) -> ctypes.CDLL | None:
    """A file of this folder as a library; None where no C compiler makes one of it, or none is there.

    Args:
        name: the file's name, such as `fused.c`.
    """
    program = compiler()
    if program is None:
        return None
    with tempfile.TemporaryDirectory(prefix="vultus-native-") as folder:
        made = Path(folder) / "code.so"
        how = ["-O3", "-funroll-loops", "-march=native", "-fopenmp", "-shared", "-fPIC"]
        command = [program, *how, "-o", str(made), str(Path(__file__).with_name(name)), "-lm"]
        try:
            subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - the C compiler
            return ctypes.CDLL(str(made))
        except (OSError, subprocess.CalledProcessError):
            return None


def call(name: str, function: str, *given: Tensor | float | None) -> None:
    """Call a function of a library that is there.

    Args:
        name: the library's file.
        function: its name; 0 from it is well, anything else want of memory.
        given: tensors go as the address of their first number, None as NULL, ints as int64_t, floats as float.

    Raises:
        MemoryError: there is none for what the function holds for itself.
    """
    code = compiled(name)
    assert code is not None, "the caller looked"  # noqa: S101 - tells the type checker
    if code[function](*map(_argument, given)):
        raise MemoryError(f"no memory for {function} ({name})")


def _argument(given: Tensor | float | None) -> ctypes.c_void_p | ctypes.c_int64 | ctypes.c_float:
    if given is None:
        return ctypes.c_void_p(None)
    if isinstance(given, Tensor):
        return ctypes.c_void_p(given.data_ptr())
    return ctypes.c_int64(given) if isinstance(given, int) else ctypes.c_float(given)
