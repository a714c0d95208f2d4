"""Galleries that were looked up before are not looked up again, until they change."""

import pytest

from service.recognition.known import KnownGalleries


def test_what_was_learnt_is_known():
    known = KnownGalleries()
    assert known.get("staff") is None
    assert known.learn("staff", lambda: ("record", "view")) == ("record", "view")
    assert known.get("staff") == ("record", "view")


def test_what_changed_is_looked_up_again():
    known = KnownGalleries()
    known.learn("staff", lambda: ("old", "view"))
    known.forget("staff")
    assert known.get("staff") is None


def test_what_changes_while_it_is_looked_up_is_answered_and_not_remembered():
    known = KnownGalleries()

    def look():
        known.forget("staff")  # a change commits between the look-up and its end
        return "old", "view"

    assert known.learn("staff", look) == ("old", "view")
    assert known.get("staff") is None


def test_a_gallery_that_is_not_there_leaves_nothing():
    known = KnownGalleries()

    def look():
        raise LookupError

    with pytest.raises(LookupError):
        known.learn("staff", look)
    assert known.get("staff") is None
