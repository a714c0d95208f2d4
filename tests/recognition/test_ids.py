import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidIdError
from service.recognition.ids import LONGEST, valid_id

GOOD = ["a", "Z9", "anna.maria", "a_b-c@d+e:f~g", "Łukasz", "李娜", "१२३", "é", "x" * 128, "-", "~a", "a.."]
BAD = [
    "",
    ".",
    "..",
    ".a",
    "a/b",
    "a\\b",
    "a b",
    "a\0",
    "a\n",
    'a"',
    "a'",
    "a%",
    "a?",
    "a#",
    "a&",
    "<a>",
    "x" * 129,
    "😀",
]
HIDDEN = ["\u200b", "\u202e", "\ufeff", "\u00a0", "\u2028", "\ud800", "\ue000"]


@pytest.mark.parametrize("text", GOOD)
def test_letters_digits_and_a_few_signs_are_taken_as_they_are(text):
    assert valid_id(text) == text


@pytest.mark.parametrize("text", BAD, ids=ascii)
def test_what_breaks_paths_or_logs_is_refused(text):
    with pytest.raises(InvalidIdError):
        valid_id(text)


@pytest.mark.parametrize("character", HIDDEN, ids=ascii)
def test_characters_that_are_not_seen_are_refused(character):
    with pytest.raises(InvalidIdError):
        valid_id(f"a{character}b")


def test_one_name_in_two_compositions_is_one_id():
    assert valid_id("cafe\u0301") == valid_id("caf\u00e9") == "caf\u00e9"


@given(st.text(max_size=140))
def test_what_is_taken_is_safe_and_stays_the_same(text):
    try:
        taken = valid_id(text)
    except InvalidIdError:
        return
    assert valid_id(taken) == taken == unicodedata.normalize("NFC", text)
    assert 1 <= len(taken) <= LONGEST
    assert not set(taken) & set("/\\%?#&\"'<> \0\n\r\t")
    assert not taken.startswith(".")
    assert taken.encode().decode() == taken
