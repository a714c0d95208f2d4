"""Who plays in the demo: most of the people of a folder are enrolled, the others come as strangers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from service.errors import InvalidRequestError

MEMBERS: Final = 30
STRANGERS: Final = 10
PHOTOS_ENROLLED: Final = 3

Outcome = Literal["right", "missed", "wrong"]


@dataclass(frozen=True)
class Visitor:
    """Somebody who shows their face.

    Attributes:
        person: the folder's name.
        enrolled: photos that are enrolled, none for a stranger.
        probe: the photo that is asked about.
    """

    person: str
    enrolled: tuple[Path, ...]
    probe: Path


@dataclass(frozen=True)
class Shown:
    """What the service said about a visitor.

    Attributes:
        visitor: whose photo was shown.
        outcome: right; missed, where a member was not recognised; wrong, where somebody was taken for another.
        face: the answer about the face, None where there was none.
        best: the first candidate.
        seconds: from sending the photo to the answer.
        fault: the code of the error, where there was one.
    """

    visitor: Visitor
    outcome: Outcome
    face: dict[str, Any] | None
    best: dict[str, Any] | None
    seconds: float
    fault: str | None = None


def cast_from(folder: Path) -> list[Visitor]:
    """Choose who is enrolled and who is a stranger: three quarters and one quarter, thirty and ten at most.

    Args:
        folder: one folder a person, each with photos; a member needs two.

    Raises:
        InvalidRequestError: there are fewer than two people, or no one has two photos.
    """
    people = [(each.name, _photos(each)) for each in sorted(_folders(folder), key=lambda each: _natural(each.name))]
    people = [(name, photos) for name, photos in people if photos]
    several = [(name, photos) for name, photos in people if len(photos) > 1]
    members = several[: min(MEMBERS, max(1, 3 * len(people) // 4))]
    named = {name for name, _ in members}
    strangers = [(name, photos) for name, photos in people if name not in named][:STRANGERS]
    if not members or not strangers:
        raise InvalidRequestError(
            f"{folder} must hold a folder of photos for each of two people or more, and two photos of one of them"
        )
    chosen = []
    for name, photos in members:
        kept = min(PHOTOS_ENROLLED, len(photos) - 1)
        chosen.append(Visitor(name, tuple(photos[:kept]), photos[kept]))
    return chosen + [Visitor(name, (), photos[0]) for name, photos in strangers]


def outcome_of(visitor: Visitor, face: dict[str, Any]) -> Outcome:
    """Judge the answer about a visitor's face."""
    if face["decision"] == "match":
        return "right" if visitor.enrolled and face["person"] == visitor.person else "wrong"
    return "missed" if visitor.enrolled else "right"


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InvalidRequestError(f"there is no folder {folder}")
    return [each for each in folder.iterdir() if each.is_dir() and not each.name.startswith(".")]


def _photos(folder: Path) -> list[Path]:
    files = [each for each in folder.iterdir() if each.is_file() and not each.name.startswith(".")]
    return sorted(files, key=lambda each: _natural(each.name))


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts 2 before 10."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]
