import pytest

from service.errors import NotFoundError
from service.gallery import keys


@pytest.fixture
def made(catalog):
    with catalog.write() as tx:
        return keys.create(tx, "the door", ["identify", "enroll", "identify"])


def find(catalog, text):
    with catalog.read() as reading:
        return keys.find(reading, text)


def test_a_key_is_found_by_its_text_with_its_scopes(catalog, made):
    assert find(catalog, made.text) == made.record
    assert made.record.scopes == {"identify", "enroll"}
    assert made.record.label == "the door"


def test_the_secret_is_not_stored(everything, made):
    assert made.record.key in everything()
    assert made.text.split("_", 2)[2] not in everything()


@pytest.mark.parametrize("spoil", [lambda t: t[:-1], lambda t: t + "x", lambda t: "vk" + t, lambda t: t.upper()])
def test_a_text_that_differs_finds_nothing(catalog, made, spoil):
    assert find(catalog, spoil(made.text)) is None


@pytest.mark.parametrize("text", ["", "vk", "vk_", "vk__", "vk_a_b", "vk_ü_ü", "_", "\x00"])
def test_a_text_that_is_no_key_finds_nothing(catalog, text):
    assert find(catalog, text) is None


def test_a_secret_may_hold_underscores(catalog):
    with catalog.write() as tx:
        texts = [keys.create(tx, "many", []).text for _ in range(40)]
    assert any(text.count("_") > 2 for text in texts)
    assert all(find(catalog, text) for text in texts)


def test_a_revoked_key_finds_nothing_and_is_still_listed(catalog, made):
    with catalog.write() as tx:
        revoked = keys.revoke(tx, made.record.key)
    assert find(catalog, made.text) is None
    with catalog.read() as reading:
        assert keys.every(reading) == (revoked,)
    assert revoked.revoked_at is not None


def test_revoking_twice_keeps_the_first_time(catalog, made):
    with catalog.write() as tx:
        first = keys.revoke(tx, made.record.key)
    with catalog.write() as tx:
        assert keys.revoke(tx, made.record.key) == first


def test_an_unknown_key_cannot_be_revoked(catalog):
    with pytest.raises(NotFoundError), catalog.write() as tx:
        keys.revoke(tx, "nothing")
