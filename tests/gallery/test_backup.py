"""Backups between catalogs in SQLite and in PostgreSQL, and files that are no sound backup."""

import gzip
import hashlib
import io
import itertools
import json
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import select

from service.errors import BackupDamagedError, BackupVersionError, NotEmptyError, SecretError
from service.gallery import backup, faces, forgetting, galleries, keys, people, restoring, schema
from service.gallery.catalog import Catalog
from service.gallery.records import PersonFields
from service.identify.fusion import fuse
from service.settings import CHECKOUT


@pytest.fixture
def kind():
    """The database that backups are made of, but in `TestOfPostgres`."""
    return "sqlite"


@pytest.fixture
def filled(catalog, gallery, template):
    """A catalog with something in every corner, and holes where keys were given out."""
    with catalog.write() as tx:
        for number in range(5):
            fields = PersonFields(
                name=f"Ünal {number}",
                digits=catalog.digits_hash(gallery.pk, f"{number:04d}"),
                attributes={"floor": number, "of": ["a", None, 0.1]},
                consent={"at": "2026-01-01"} if number else None,
                expires_at=datetime(2100, 1, 1, 0, 0, 0, 123456, tzinfo=UTC) if number == 2 else None,
            )
            faces.add(
                tx, gallery.pk, f"p{number}", [template(10 * number + n) for n in range(3)], limit=9, fields=fields
            )
        people.put(tx, gallery.pk, "nobody", PersonFields())
    with catalog.write() as tx:
        pk = people.get(tx, gallery.pk, "p1").pk
        visit = {"gallery_pk": gallery.pk, "person_pk": pk, "device": "door", "at": tx.now, "confirmed_by": "card"}
        tx.connection.execute(schema.visits.insert(), visit)
        job = {"pk": 1, "gallery_pk": gallery.pk, "import_id": "i_1", "request_digest": "d", "request": {"path": "x"}}
        job |= {"state": "done", "counts": {"enrolled": 1}, "created_at": tx.now}
        tx.connection.execute(schema.imports.insert(), job)
        shard = {"pk": 1, "import_pk": 1, "first": 0, "count": 1, "done": 1, "entries": b"\x00\xff"}
        tx.connection.execute(schema.shards.insert(), shard)
        tx.connection.execute(schema.outcomes.insert(), {"shard_pk": 1, "first": 0, "rows": b"\\\n\t"})
        keys.create(tx, "mine", ["read", "identify"])
        galleries.create(tx, "last", model="sface", model_digest="d1", dim=16)
    with catalog.write() as tx:
        forgetting.forget(tx, gallery.pk, "p4")
        galleries.delete(tx, galleries.get(tx, "last").pk)
    return catalog


@pytest.fixture
def saved(filled):
    """Bytes of its backup."""
    file = io.BytesIO()
    backup.write(filled, file)
    return file.getvalue()


@pytest.fixture
def other(tmp_path):
    """An empty catalog with the same secret."""
    catalog = Catalog.open(tmp_path / "other.sqlite", secret=b"s" * 32, fuse=fuse)
    yield catalog
    catalog.close()


@pytest.fixture
def postgres(postgres_server):
    """The same in PostgreSQL."""
    catalog = Catalog.open(postgres_server.database(), secret=b"s" * 32, fuse=fuse)
    yield catalog
    catalog.close()


def contents(catalog):
    with catalog.read() as reading:
        return {
            table.name: sorted(map(repr, reading.connection.execute(select(table)).all())) for table in backup.TABLES
        }


def restored(catalog, data, **options):
    return restoring.restore(catalog, io.BytesIO(data), **options)


def repacked(data, change, *, digest=True):
    """The backup with its lines changed by a function, and its digest made right again."""
    lines = gzip.decompress(data).splitlines(keepends=True)
    lines = change(lines)
    end = json.loads(lines[-1])
    if digest and "end" in end:
        end["sha256"] = hashlib.sha256(b"".join(lines[:-1])).hexdigest()
        lines[-1] = json.dumps(end).encode() + b"\n"
    return gzip.compress(b"".join(lines))


def with_header(**changes):
    def change(lines):
        return [json.dumps({**json.loads(lines[0]), **changes}).encode() + b"\n", *lines[1:]]

    return change


def assert_the_same(filled, saved, other):
    """Restored, the contents are the same, so is a backup of them, and the next keys are."""
    restored(other, saved)
    assert contents(other) == contents(filled)
    again = io.BytesIO()
    backup.write(other, again)
    first, second = (gzip.decompress(data).splitlines()[1:-1] for data in (saved, again.getvalue()))
    assert first == second
    assert next_keys(other) == next_keys(filled)


def next_keys(catalog):
    """The keys of a new gallery and of somebody new in it."""
    with catalog.write() as tx:
        made = galleries.create(tx, "next", model="sface", model_digest="d1", dim=16)
        return made.pk, people.put(tx, made.pk, "new", PersonFields()).person.pk


def test_everything_comes_back(filled, saved, other):
    assert_the_same(filled, saved, other)


def test_everything_comes_back_in_postgresql(filled, saved, postgres):
    assert_the_same(filled, saved, postgres)


class TestOfPostgres:
    @pytest.fixture
    def kind(self):
        return "postgresql"

    def test_everything_comes_back_in_sqlite(self, filled, saved, other):
        assert_the_same(filled, saved, other)

    def test_everything_comes_back_in_postgresql(self, filled, saved, postgres):
        assert_the_same(filled, saved, postgres)

    def test_it_takes_none_where_something_is_kept(self, catalog, saved):
        before = contents(catalog)
        with pytest.raises(NotEmptyError):
            restored(catalog, saved)
        assert contents(catalog) == before


def test_hashes_fit_where_the_secret_is_the_same(filled, saved, other, gallery):
    restored(other, saved)
    with other.read() as reading:
        assert people.get(reading, gallery.pk, "p3").digits == other.digits_hash(gallery.pk, "0003")


def test_what_was_restored_is_another_catalog_than_it_was(catalog, saved, tmp_path):
    place = tmp_path / "again.sqlite"
    first = Catalog.open(place, secret=b"s" * 32, fuse=fuse)
    before = first.id
    restored(first, saved)
    first.close()
    second = Catalog.open(place, secret=b"s" * 32, fuse=fuse)
    assert len({before, second.id, catalog.id}) == 3
    second.close()


def test_a_backup_shows_one_moment_whatever_is_enrolled_meanwhile(catalog, gallery, template):
    ended = threading.Event()

    def enroll():
        for number in itertools.count():
            with catalog.write() as tx:
                faces.add(tx, gallery.pk, f"p{number}", [template(2 * number), template(2 * number + 1)], limit=9)
            if ended.is_set():
                return

    enrolling = threading.Thread(target=enroll)
    enrolling.start()
    shown = []
    for _ in range(10):
        file = io.BytesIO()
        (then,) = backup.write(catalog, file).header.galleries
        rows = {table.name: [] for table in backup.TABLES}
        file.seek(0)
        for table, some in backup.Reader(file, backup.seal_of(catalog)):
            rows[table.name] += some
        assert len(rows["people"]) == then.people == then.revision
        assert len(rows["templates"]) == then.faces == 2 * then.people
        shown.append(then.revision)
    ended.set()
    enrolling.join()
    assert len(set(shown)) > 1


def test_the_secret_is_not_in_the_file(saved):
    assert b"ssss" not in gzip.decompress(saved)


def test_a_backup_says_what_it_holds(filled, saved):
    header = backup.verify(io.BytesIO(saved), backup.seal_of(filled)).header
    assert [(each.name, each.people, each.faces) for each in header.galleries] == [("staff", 5, 12)]


@pytest.mark.parametrize("left", [0, 5, 100, 0.5, -9, -1])
def test_a_backup_that_was_cut_short_is_refused(saved, left):
    cut = saved[: int(len(saved) * left) if isinstance(left, float) else left]
    with pytest.raises(BackupDamagedError):
        backup.verify(io.BytesIO(cut), None)


def test_a_backup_that_was_cut_short_and_packed_again_is_refused(saved):
    with pytest.raises(BackupDamagedError, match="cut short"):
        backup.verify(io.BytesIO(repacked(saved, lambda lines: lines[:-1])), None)


def test_every_changed_byte_is_noticed(saved):
    for place in range(10, len(saved), max(1, len(saved) // 60)):
        changed = saved[:place] + bytes([saved[place] ^ 1]) + saved[place + 1 :]
        with pytest.raises(BackupDamagedError):
            backup.verify(io.BytesIO(changed), None)


def edit(lines):
    return [line.replace(b'"p3"', b'"x3"') for line in lines]


def test_a_backup_that_was_edited_is_refused(saved):
    with pytest.raises(BackupDamagedError, match="digest"):
        backup.verify(io.BytesIO(repacked(saved, edit, digest=False)), None)


def test_a_backup_that_was_edited_with_its_digest_is_refused_by_its_seal(saved, other):
    before = contents(other)
    with pytest.raises(BackupDamagedError, match="seal"):
        restored(other, repacked(saved, edit))
    assert contents(other) == before


def test_something_behind_the_end_is_refused(saved):
    with pytest.raises(BackupDamagedError):
        backup.verify(io.BytesIO(saved + b"more"), None)


@pytest.mark.parametrize("data", [b"", b"a photo", gzip.compress(b"something"), gzip.compress(b'{"format": "x"}\n')])
def test_another_file_is_no_backup(data):
    with pytest.raises(BackupDamagedError):
        backup.verify(io.BytesIO(data), None)
    assert not backup.begins_like_one(io.BytesIO(data))


@pytest.mark.parametrize("change", [{"version": 2}, {"schema": schema.VERSION + 1}, {"schema": schema.VERSION - 1}])
def test_a_backup_of_another_version_is_refused_and_its_release_named(saved, change):
    with pytest.raises(BackupVersionError, match="release 9"):
        backup.verify(io.BytesIO(repacked(saved, with_header(release="9", **change))), None)


@pytest.mark.parametrize("value", ["[1]", '["a","b"]', "{}", "7", "[[1,2]]"])
def test_rows_that_do_not_fit_are_refused(saved, value):
    def change(lines):
        place = next(number for number, line in enumerate(lines) if b'{"table":"people"}' in line)
        return [*lines[: place + 1], value.encode() + b"\n", *lines[place + 2 :]]

    with pytest.raises(BackupDamagedError):
        backup.verify(io.BytesIO(repacked(saved, change)), None)


def test_a_catalog_that_holds_something_takes_no_backup(saved, other):
    with other.write() as tx:
        keys.create(tx, "mine", ["read"])
    before = contents(other)
    with pytest.raises(NotEmptyError, match="not empty"):
        restored(other, saved)
    assert contents(other) == before


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_restore_that_is_killed_leaves_nothing_and_is_done_again(filled, saved, database, tmp_path, request):
    where = tmp_path / "killed.sqlite"
    if database == "postgresql":
        where = request.getfixturevalue("postgres_server").database()
    file = tmp_path / "saved"
    file.write_bytes(saved)
    command = [sys.executable, str(Path(__file__).with_name("halting.py")), str(where), str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT, env={"PYTHONPATH": "."}) as process:
        assert process.stdout.readline() == "half\n"
        process.kill()
    catalog = Catalog.open(where, secret=b"s" * 32, fuse=fuse)
    assert not any(contents(catalog).values())
    restored(catalog, saved)
    assert contents(catalog) == contents(filled)
    catalog.close()


class TestOfAnotherSecret:
    @pytest.fixture
    def strange(self, tmp_path):
        catalog = Catalog.open(tmp_path / "strange.sqlite", secret=b"t" * 32, fuse=fuse)
        yield catalog
        catalog.close()

    def test_it_is_refused(self, saved, strange):
        with pytest.raises(SecretError, match="another secret"):
            restored(strange, saved)
        assert not any(contents(strange).values())

    def test_told_to_it_is_taken_without_digits(self, filled, saved, strange, gallery):
        restored(strange, saved, without_secret=True)
        with strange.read() as reading:
            assert {each.digits for each in people.page(reading, gallery.pk).items} == {None}
        expected = contents(filled)
        found = contents(strange)
        assert {name: rows for name, rows in found.items() if name != "people"} == {
            name: rows for name, rows in expected.items() if name != "people"
        }

    def test_an_edit_is_still_noticed_by_its_digest(self, saved, strange):
        with pytest.raises(BackupDamagedError):
            restored(strange, repacked(saved, edit, digest=False), without_secret=True)

    def test_rows_that_break_the_rules_of_the_tables_are_refused_whole(self, saved, strange):
        def orphan(lines):
            return [line.replace(b'[[1,1,"p0"', b'[[1,77,"p0"') for line in lines]

        assert repacked(saved, orphan) != repacked(saved, list)
        with pytest.raises(BackupDamagedError, match="people"):
            restored(strange, repacked(saved, orphan), without_secret=True)
        assert not any(contents(strange).values())
