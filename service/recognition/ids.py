"""Which identifiers people and galleries may have."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from service.errors import InvalidIdError

LONGEST: Final = 128
PLAIN: Final = re.compile(r"[A-Za-z0-9_@+:~-][A-Za-z0-9._@+:~-]{0,127}")
"""What most identifiers look like; the rule below would say the same of them, character by character."""

PUNCTUATION: Final = frozenset("._-@+:~")


def valid_id(text: str) -> str:
    """Return the identifier in its normal form (Unicode NFC).

    Letters, marks and digits of any script, and `. _ - @ + : ~`, but not a dot at the start; 1 to 128 characters. So an
    identifier is safe in a path, a log line and a file name, and never looks like another one by composition alone.

    Raises:
        InvalidIdError: it has other characters, or another length.
    """
    if PLAIN.fullmatch(text):
        return text
    normal = unicodedata.normalize("NFC", text)
    if not 1 <= len(normal) <= LONGEST:
        raise InvalidIdError(f"an identifier has 1 to {LONGEST} characters, not {len(normal)}")
    if normal.startswith("."):
        raise InvalidIdError("an identifier does not start with a dot")
    for character in normal:
        if unicodedata.category(character)[0] not in "LMN" and character not in PUNCTUATION:
            raise InvalidIdError(f"an identifier does not contain {character!a}")
    return normal
