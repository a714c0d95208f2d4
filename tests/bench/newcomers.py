"""People who do not exist yet, for benches that put them into a catalog."""

from __future__ import annotations

from collections.abc import Sequence

from service.gallery.bulk import Addition, Owner


def owners_of(given: Sequence[Addition]) -> dict[str, Owner]:
    """Somebody new for each addition."""
    return {each.person: Owner(None, {}, [each.template.embedding], [each.template.quality]) for each in given}
