"""What is true of a catalog in PostgreSQL alone: several processes at once, rights, passwords, a server that leaves."""

import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest
from sqlalchemy.exc import DBAPIError

from service.errors import (
    GalleryExistsError,
    GalleryFullError,
    GalleryNotFoundError,
    IdempotencyInProgressError,
    InvalidRequestError,
    PersonNotFoundError,
    StorageError,
    StorageFullError,
)
from service.gallery import faces, forgetting, galleries, idempotency, people
from service.gallery.catalog import Catalog
from service.gallery.idempotency import Claim
from service.gallery.postgresql import PostgresStorage, speaks_of
from service.gallery.records import PersonFields
from service.gallery.visits import CatalogVisits, NewVisit
from service.identify.fusion import fuse
from service.settings import CHECKOUT
from tests.servers import postgres

SECRET = b"s" * 32


@pytest.fixture
def kind():
    return "postgresql"


@pytest.fixture
def url(place):
    return place


@pytest.fixture
def replicas(url):
    """Three catalogs over one database, each with connections of its own, as three processes have."""
    opened = [Catalog.open(url, secret=SECRET, fuse=fuse) for _ in range(3)]
    yield opened
    for catalog in opened:
        catalog.close()


@pytest.fixture
def staff(replicas):
    with replicas[0].write() as tx:
        return galleries.create(tx, "staff", model="sface", model_digest="d1", dim=16).pk


def at_once(replicas, work, times):
    """Run `work(catalog, number)` so many times, on all replicas, at the same time."""
    with ThreadPoolExecutor(2 * len(replicas)) as pool:
        return list(pool.map(lambda number: work(replicas[number % len(replicas)], number), range(times)))


def test_revisions_of_all_replicas_follow_one_another_without_gap(replicas, staff, template):
    def enrol(catalog, number):
        with catalog.write() as tx:
            return faces.add(tx, staff, f"p{number}", [template(number)], limit=5).revision

    assert sorted(at_once(replicas, enrol, 30)) == list(range(1, 31))


def test_one_person_enrolled_everywhere_at_once_is_one_person_with_every_face(replicas, staff, template):
    def enrol(catalog, number):
        with catalog.write() as tx:
            return faces.add(tx, staff, "anna", [template(number)], limit=50)

    created = [added.created for added in at_once(replicas, enrol, 20)]
    assert sum(created) == 1
    with replicas[0].read() as reading:
        anna = people.get(reading, staff, "anna")
        kept = faces.of_person(reading, anna.pk)
        assert len(kept) == anna.faces == 20
        # The fused vector is that of all faces: nobody fused what another had changed meanwhile.
        again = fuse_of(kept)
        assert (faces.fused(reading, anna.pk) == again).all()


def fuse_of(kept):
    return fuse(np.stack([each.embedding for each in kept]), np.array([each.quality for each in kept], np.float32))


def test_the_limit_of_faces_holds_across_replicas(replicas, staff, template):
    def enrol(catalog, number):
        try:
            with catalog.write() as tx:
                faces.add(tx, staff, "anna", [template(number)], limit=7)
        except GalleryFullError:
            return False
        return True

    assert sum(at_once(replicas, enrol, 20)) == 7


def test_the_same_photo_sent_to_every_replica_is_kept_once(replicas, staff, template):
    def enrol(catalog, _):
        with catalog.write() as tx:
            return faces.add(tx, staff, "anna", [template(1)], limit=5)

    outcomes = [added.outcomes[0] for added in at_once(replicas, enrol, 12)]
    assert sum(outcome.added for outcome in outcomes) == 1
    assert len({outcome.face for outcome in outcomes}) == 1


def test_a_person_is_forgotten_once_whoever_is_asked(replicas, staff, template):
    with replicas[0].write() as tx:
        faces.add(tx, staff, "anna", [template(1)], limit=5)

    def forget(catalog, _):
        try:
            with catalog.write() as tx:
                return forgetting.forget(tx, staff, "anna").receipt.revision
        except PersonNotFoundError:
            return None

    assert [each for each in at_once(replicas, forget, 9) if each is not None] == [2]


def test_a_name_is_taken_by_one_replica(replicas):
    def create(catalog, _):
        try:
            with catalog.write() as tx:
                galleries.create(tx, "guests", model="sface", model_digest="d1", dim=16)
        except GalleryExistsError:
            return False
        return True

    assert sum(at_once(replicas, create, 9)) == 1


def test_an_idempotency_key_commits_once_across_replicas(replicas, staff):
    def put(catalog, number):
        try:
            with catalog.write() as tx:
                people.put(tx, staff, f"p{number}", PersonFields())
                idempotency.remember(tx, Claim("caller", "k", "d"), 201, b"done")
        except IdempotencyInProgressError:
            return False
        return True

    assert sum(at_once(replicas, put, 9)) == 1
    with replicas[0].read() as reading:
        assert len(people.page(reading, staff).items) == 1


def test_visits_are_numbered_in_the_order_of_their_commits(replicas, staff):
    """A reader that saw the newest key saw every visit before it."""
    seen = threading.Event()
    faults = []

    def watch():
        while not seen.is_set():
            with replicas[2].read() as reading:
                last = CatalogVisits().last_of(reading, staff)
                there = reading.connection.exec_driver_sql("SELECT count(*) FROM visits").scalar_one()
            if there != last:
                faults.append((there, last))

    watcher = threading.Thread(target=watch)
    watcher.start()

    def visit(catalog, _):
        with catalog.write() as tx:
            CatalogVisits().record(tx, staff, NewVisit(None, None, "gate", None, None, tx.now, "card"))
            time.sleep(0.002)

    at_once(replicas[:2], visit, 30)
    seen.set()
    watcher.join()
    assert faults == []


def test_writers_of_two_galleries_do_not_wait_for_each_other(replicas, staff):
    with replicas[0].write() as tx:
        other = galleries.create(tx, "guests", model="sface", model_digest="d1", dim=16).pk
    with replicas[0].write() as slow:
        people.put(slow, staff, "anna", PersonFields())
        with replicas[1].write() as quick:
            people.put(quick, other, "bert", PersonFields())
        with replicas[2].read() as reading:
            assert people.find(reading, other, "bert") is not None
            assert people.find(reading, staff, "anna") is None


def test_a_gallery_deleted_by_another_replica_is_gone_for_whoever_waited(replicas, staff, template):
    failed = []

    def enrol():
        try:
            with replicas[1].write() as tx:
                faces.add(tx, staff, "anna", [template(1)], limit=5)
        except GalleryNotFoundError:
            failed.append("not found")

    with replicas[0].write() as tx:
        galleries.delete(tx, staff)
        waiting = threading.Thread(target=enrol)
        waiting.start()
        time.sleep(0.2)
    waiting.join()
    assert failed == ["not found"]


def test_replicas_that_start_at_the_same_time_make_one_catalog(url):
    script = (
        "import sys\nfrom service.gallery.catalog import Catalog\nfrom service.identify.fusion import fuse\n"
        "print(Catalog.open(sys.argv[1], secret=b's' * 32, fuse=fuse).id)"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", script, url], stdout=subprocess.PIPE, text=True, cwd=CHECKOUT)
        for _ in range(3)
    ]
    said = [process.communicate(timeout=60)[0] for process in started]
    assert len(set(said)) == 1
    assert said[0].strip()


@pytest.mark.parametrize(
    ("rows", "deed"),
    [("ALL", "making"), ("CONNECT", "making"), ("SELECT", "reading")],
    ids=["no right to connect", "no right to make tables", "no right to the tables"],
)
def test_a_user_without_rights_is_told(postgres_server, url, rows, deed):
    name = url.rpartition("/")[2]
    user = f"poor_{name}"
    postgres_server.run(f"CREATE ROLE {user} LOGIN PASSWORD 'x'")
    if rows == "ALL":
        postgres_server.run(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
    if deed == "reading":
        Catalog.open(url, secret=SECRET, fuse=fuse).close()
    else:
        postgres_server.run("REVOKE CREATE ON SCHEMA public FROM PUBLIC", database=name)
    with pytest.raises(StorageError, match="may not be used by this user") as refused:
        Catalog.open(postgres_server.url(name, user, "x"), secret=SECRET, fuse=fuse)
    assert refused.value.retry_after is None


def test_a_user_who_may_only_read_cannot_write(postgres_server, url):
    Catalog.open(url, secret=SECRET, fuse=fuse).close()
    name = url.rpartition("/")[2]
    postgres_server.run(
        f"CREATE ROLE reads_{name} LOGIN PASSWORD 'x'",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO reads_{name}",
        database=name,
    )
    catalog = Catalog.open(postgres_server.url(name, f"reads_{name}", "x"), secret=SECRET, fuse=fuse)
    with pytest.raises(StorageError, match="may not be used"), catalog.write() as tx:
        galleries.create(tx, "staff", model="sface", model_digest="d1", dim=16)
    with catalog.read() as reading:
        assert galleries.every_pk(reading) == ()
    catalog.close()


def test_a_wrong_password_is_told_and_not_repeated(postgres_server):
    with pytest.raises(StorageError, match="refuses the user or the password") as refused:
        Catalog.open(postgres_server.url("postgres", password="a-wrong-one"), secret=SECRET, fuse=fuse)
    assert "a-wrong-one" not in str(refused.value)


def test_a_database_that_does_not_exist_is_told(postgres_server):
    with pytest.raises(StorageError, match="does not exist"):
        Catalog.open(postgres_server.url("nowhere"), secret=SECRET, fuse=fuse)


def test_a_port_where_nobody_listens_is_told_with_the_time_to_come_again():
    with pytest.raises(StorageError, match="does not answer") as refused:
        Catalog.open("postgresql://u:p@127.0.0.1:1/x", secret=SECRET, fuse=fuse)
    assert refused.value.extra["retry_after"] == refused.value.retry_after > 0


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("postgresql://", "names no host"),
        ("postgresql://host/", "names no host"),
        ("postgresql://u@host:port/x", "it is like"),
        ("postgresql://u:p@host/x?speed=high", "not speed"),
        ("postgresql://u:p@host/x?sslmode=allow", "sslmode=disable"),
        ("postgresql://u:p@host/x?sslmode=verify-full&sslrootcert=/nowhere", "cannot be read"),
    ],
)
def test_a_url_that_cannot_be_used_is_told(url, fault):
    with pytest.raises(StorageError, match=fault):
        PostgresStorage.at(url)


def test_a_server_without_tls_is_refused_where_tls_is_required(url):
    with pytest.raises(StorageError, match="does not answer"):
        Catalog.open(f"{url}?sslmode=require", secret=SECRET, fuse=fuse)
    Catalog.open(f"{url}?sslmode=disable", secret=SECRET, fuse=fuse).close()


def test_urls_of_postgresql_are_told_from_others():
    assert all(map(speaks_of, ["postgresql://h/d", "postgres://h/d", "postgresql+pg8000://h/d"]))
    assert not any(map(speaks_of, ["sqlite:///x", "mysql://h/d", "/a/path"]))


@pytest.mark.parametrize("person", ["a\x00b", "x" * 256])
def test_a_text_that_cannot_be_kept_is_the_callers_fault(catalog, gallery, person):
    with pytest.raises(InvalidRequestError, match="too long, or holds a character"), catalog.write() as tx:
        people.put(tx, gallery.pk, person, PersonFields())


def test_an_acknowledged_write_is_on_the_servers_disk_whatever_its_default_is(postgres_server, url):
    postgres_server.run(f"ALTER DATABASE {url.rpartition('/')[2]} SET synchronous_commit = off")
    catalog = Catalog.open(url, secret=SECRET, fuse=fuse)
    with catalog.write() as tx:
        assert tx.connection.exec_driver_sql("SHOW synchronous_commit").scalar_one() == "on"
    catalog.close()


def test_a_transaction_whose_process_hangs_loses_its_gallery(catalog, gallery):
    with catalog.write() as tx:
        waits = tx.connection.exec_driver_sql("SHOW idle_in_transaction_session_timeout").scalar_one()
    assert waits == "1min"


def test_a_full_disk_is_told_as_one(catalog):
    with pytest.raises(StorageFullError), catalog.read() as reading:
        reading.connection.exec_driver_sql("DO $$ BEGIN RAISE EXCEPTION 'full' USING ERRCODE = '53100'; END $$")


@pytest.fixture(scope="module")
def leaving():
    """A server that comes and goes."""
    with postgres(durable=True) as server:
        yield server


class TestServerThatLeaves:
    @pytest.fixture
    def server(self, leaving):
        if leaving.process is None:
            leaving.start()
        return leaving

    @pytest.fixture
    def kept(self, server):
        kept = Catalog.open(server.database(), secret=SECRET, fuse=fuse)
        yield kept
        kept.close()

    @staticmethod
    def names(catalog):
        with catalog.read() as reading:
            return [each.name for each in galleries.page(reading).items]

    @staticmethod
    def create(catalog, name):
        with catalog.write() as tx:
            galleries.create(tx, name, model="sface", model_digest="d1", dim=16)

    @pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["stopped", "crashed"])
    def test_it_is_told_while_it_is_away_and_found_when_it_is_back(self, server, kept, how):
        self.create(kept, "before")
        assert self.names(kept) == ["before"]
        server.stop(how)
        for work in (lambda: self.names(kept), lambda: self.create(kept, "meanwhile")):
            with pytest.raises(StorageError) as refused:
                work()
            assert refused.value.retry_after
        server.start()
        self.create(kept, "after")
        assert self.names(kept) == ["after", "before"]

    def test_a_transaction_under_way_fails_as_a_whole(self, server, kept):
        def half():
            with kept.write() as tx:
                galleries.create(tx, "half", model="sface", model_digest="d1", dim=16)
                server.stop()

        with pytest.raises(StorageError) as refused:
            half()
        assert refused.value.retry_after
        server.start()
        assert self.names(kept) == []

    def test_a_connection_that_rested_over_a_restart_is_replaced_unseen(self, server, kept):
        self.create(kept, "before")
        self.names(kept)
        server.stop()
        server.start()
        time.sleep(1.1)  # a connection that was used a moment ago is not tried first
        assert self.names(kept) == ["before"]
        self.create(kept, "after")

    def test_a_connection_that_broke_fails_once_at_most_and_is_replaced(self, server, kept):
        self.create(kept, "before")
        assert self.names(kept) == ["before"]
        server.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'vultus'")
        with suppress(StorageError):  # one that was used a moment ago is not tried first
            self.names(kept)
            self.create(kept, "perhaps")
        with suppress(StorageError):
            self.create(kept, "perhaps too")
        self.create(kept, "after")
        assert {"before", "after"} <= set(self.names(kept))


def test_an_error_of_the_driver_never_leaves_as_it_is(catalog):
    with pytest.raises(StorageError, match="SQLSTATE 42601") as told, catalog.read() as reading:
        reading.connection.exec_driver_sql("SELEKT 1")
    assert isinstance(told.value.__cause__, DBAPIError)
