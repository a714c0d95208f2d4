"""Visits in Redis: counted where they are asked for, so that a history costs one read however many visits it holds.

For where the visits of a catalog outgrow it. Redis must keep its data then (an append-only file, `appendfsync always`
if no acknowledged visit may be lost): what is shared beside the catalog may vanish, a history should not. No single
visit is kept, only counts by person, day and place; a person's and a day's are found again to be deleted.

Per gallery, under one prefix:

    newest              the number of the newest visit
    at:KIND:NAME        hash   person:day -> visits at a device, in a cell or in a region; person -1 is a stranger
    where               hash   device -> its cell and region
    devices             sorted set of devices by visits
    travels             hash   home and region -> visits
    person:P, day:D     hashes entry -> visits, where an entry is (person, day, device, cell, region, home)
and beside the galleries `days`, a sorted set of GALLERY:DAY by day.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import numpy as np

from service.gallery.catalog import Reading, WriteTransaction
from service.gallery.schema import EPOCH
from service.gallery.visits import DaysAtPlace, NewVisit, Place
from service.shared.redis_store import InRedis

STRANGER: Final = -1
CHUNK: Final = 1_000


class RedisVisits:
    """Visits kept in Redis; see `Visits`.

    A visit is written within the transaction that decides about it. Should that not be committed after all, the visit
    is there although nobody was told so.

    Args:
        shared: the Redis, and where in it this catalog's names are.
    """

    def __init__(self, shared: InRedis) -> None:
        self._shared = shared
        self._all = f"{shared.space}visits:"

    def record(self, tx: WriteTransaction, gallery_pk: int, visit: NewVisit) -> int:
        """Keep a visit; see `Visits`."""
        tx.hold(gallery_pk)
        base, day = self._base(gallery_pk), _day_of(visit.at)
        person = STRANGER if visit.person_pk is None else visit.person_pk
        entry = json.dumps([person, day, visit.device, visit.cell, visit.region, visit.home])

        def work(client: Any) -> int:
            with client.pipeline() as pipe:
                pipe.incr(f"{base}newest")
                for key in _places(base, visit.device, visit.cell, visit.region):
                    pipe.hincrby(key, f"{person}:{day}", 1)
                if visit.device is not None:
                    pipe.zincrby(f"{base}devices", 1, visit.device)
                    if visit.region is not None:
                        pipe.hset(f"{base}where", visit.device, json.dumps([visit.cell, visit.region]))
                if visit.home is not None and visit.region is not None:
                    pipe.hincrby(f"{base}travels", json.dumps([visit.home, visit.region]), 1)
                if person != STRANGER:
                    pipe.hincrby(f"{base}person:{person}", entry, 1)
                pipe.hincrby(f"{base}day:{day}", entry, 1)
                pipe.zadd(f"{self._all}days", {f"{gallery_pk}:{day}": day})
                return int(pipe.execute()[0])

        return self._shared.must(work)

    def at_place(self, reading: Reading, gallery_pk: int, kind: Place, name: str) -> DaysAtPlace:  # noqa: ARG002 (the protocol's)
        """Everybody who was at a place; see `Visits`."""
        key = f"{self._base(gallery_pk)}at:{kind}:{name}"
        found = self._shared.must(lambda client: client.hgetall(key))
        rows = [(*map(int, field.split(b":")), int(count)) for field, count in found.items()]
        table = np.array(rows, np.int64).reshape(-1, 3)
        return DaysAtPlace(table[:, 0], table[:, 1], table[:, 2])

    def last_of(self, reading: Reading, gallery_pk: int) -> int:  # noqa: ARG002
        """The number of the newest visit; see `Visits`."""
        return int(self._shared.must(lambda client: client.get(f"{self._base(gallery_pk)}newest")) or 0)

    def place_of(self, reading: Reading, gallery_pk: int, device: str) -> tuple[str | None, str | None]:  # noqa: ARG002
        """Where a device is; see `Visits`."""
        found = self._shared.must(lambda client: client.hget(f"{self._base(gallery_pk)}where", device))
        if found is None:
            return None, None
        cell, region = json.loads(found)
        return cell, region

    def devices(self, reading: Reading, gallery_pk: int, *, limit: int) -> list[str]:  # noqa: ARG002
        """The busiest devices; see `Visits`."""
        key = f"{self._base(gallery_pk)}devices"

        def work(client: Any) -> list[tuple[float, str]]:
            busiest = client.zrange(key, 0, limit - 1, desc=True, withscores=True)
            if not busiest:
                return []
            least = busiest[-1][1]
            tied = client.zrangebyscore(key, least, least, start=0, num=limit)
            return [
                *((-score, name.decode()) for name, score in busiest if score > least),
                *((-least, name.decode()) for name in tied),
            ]

        return [name for _, name in sorted(self._shared.must(work))[:limit]]

    def travels(self, reading: Reading, gallery_pk: int) -> list[tuple[str, str, int]]:  # noqa: ARG002
        """Visits by home and region; see `Visits`."""
        found = self._shared.must(lambda client: client.hgetall(f"{self._base(gallery_pk)}travels"))
        return [(*json.loads(field), int(count)) for field, count in found.items()]

    def forget_person(self, tx: WriteTransaction, gallery_pk: int, person_pk: int) -> None:
        """Delete a person's visits; see `Visits`."""
        tx.hold(gallery_pk)
        base = self._base(gallery_pk)

        def work(client: Any) -> None:
            self._undo(client, base, client.hgetall(f"{base}person:{person_pk}"))

        self._shared.must(work)

    def forget_gallery(self, tx: WriteTransaction, gallery_pk: int) -> None:
        """Delete a gallery's visits; see `Visits`."""
        tx.hold(gallery_pk)

        def work(client: Any) -> None:
            for key in client.scan_iter(match=f"{self._base(gallery_pk)}*", count=CHUNK):
                client.unlink(key)
            for member, _ in client.zscan_iter(f"{self._all}days", match=f"{gallery_pk}:*"):
                client.zrem(f"{self._all}days", member)

        self._shared.must(work)

    def forget_before(self, tx: WriteTransaction, moment: datetime) -> int:
        """Delete what is too old; see `Visits`."""

        def work(client: Any) -> int:
            gone = 0
            for member in client.zrangebyscore(f"{self._all}days", "-inf", _day_of(moment) - 1):
                gallery_pk, day = map(int, member.split(b":"))
                base = self._base(gallery_pk)
                entries = client.hgetall(f"{base}day:{day}")
                self._undo(client, base, entries)
                client.zrem(f"{self._all}days", member)
                gone += sum(map(int, entries.values()))
            return gone

        gone = self._shared.must(work)
        tx.erased = tx.erased or gone > 0
        return gone

    def _base(self, gallery_pk: int) -> str:
        return f"{self._all}{gallery_pk}:"

    def _undo(self, client: Any, base: str, entries: Mapping[bytes, bytes]) -> None:
        """Take entries out of all counts: all those of a person, or all those of a day."""
        travels = f"{base}travels"
        homes = set()
        with client.pipeline() as pipe:
            for entry, count in entries.items():
                person, day, device, cell, region, home = json.loads(entry)
                for key in _places(base, device, cell, region):
                    pipe.hdel(key, f"{person}:{day}")
                if device is not None:
                    pipe.zincrby(f"{base}devices", -int(count), device)
                if home is not None and region is not None:
                    homes.add(json.dumps([home, region]))
                    pipe.hincrby(travels, json.dumps([home, region]), -int(count))
                pipe.hdel(f"{base}person:{person}", entry)
                pipe.hdel(f"{base}day:{day}", entry)
            pipe.zremrangebyscore(f"{base}devices", "-inf", 0)
            pipe.execute()
        empty = [home for home in homes if int(client.hget(travels, home) or 0) <= 0]
        if empty:
            client.hdel(travels, *empty)


def _day_of(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(days=1)


def _places(base: str, device: str | None, cell: str | None, region: str | None) -> Iterable[str]:
    named = (("device", device), ("cell", cell), ("region", region))
    return [f"{base}at:{kind}:{name}" for kind, name in named if name is not None]
