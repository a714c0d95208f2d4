"""Verification sets on disk: insightface's .bin files, and lists of pairs in LFW's form."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.errors import EvaluationError
from training.records import PackedPairs, read_bin


def open_pairs(path: Path, crops: Path | None = None) -> PackedPairs:
    """A verification set: a .bin file, or LFW's list of pairs with the folder of crops that it names.

    Raises:
        EvaluationError: the list names photos that are missing, or comes without a folder.
        DataError: the .bin file is damaged.
    """
    if path.suffix == ".bin":
        return read_bin(path)
    if crops is None:
        raise EvaluationError(f"{path} is a list of names; --crops tells where the crops are")
    try:
        pairs, same = read_pairs(path.read_text("utf-8"))
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read: {error}") from error
    files = {name: crops / name.rpartition("_")[0] / f"{name}.jpg" for pair in pairs for name in pair}
    missing = sorted(name for name, file in files.items() if not file.is_file())
    if missing:
        raise EvaluationError(f"{len(missing)} of the {len(files)} photos are not in {crops}, such as {missing[0]}")
    return PackedPairs([files[name].read_bytes() for pair in pairs for name in pair], same)


def read_pairs(text: str) -> tuple[list[tuple[str, str]], NDArray[np.bool_]]:
    """Read LFW's `pairs.txt`.

    Args:
        text: the file's content: a line of counts, then `name i j` or `name i other j`, separated by tabs.

    Returns:
        The pairs as file stems (`Name_0001`), and (n,) whether each shows one person.

    Raises:
        EvaluationError: a line has another form.
    """
    pairs: list[tuple[str, str]] = []
    same: list[bool] = []
    for number, line in enumerate(text.splitlines()[1:], 2):
        parts: Sequence[str] = line.split("\t")
        if len(parts) == 1:  # the training lists repeat a count between mates and impostors
            continue
        try:
            if len(parts) == 3:
                name, i, j = parts
                pairs.append((f"{name}_{int(i):04d}", f"{name}_{int(j):04d}"))
            else:
                name, i, other, j = parts
                pairs.append((f"{name}_{int(i):04d}", f"{other}_{int(j):04d}"))
        except ValueError as error:
            raise EvaluationError(f"line {number} of the pairs is of another form: {line!r}") from error
        same.append(len(parts) == 3)
    return pairs, np.array(same, np.bool_)
