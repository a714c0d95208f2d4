from pathlib import Path

import pytest
from sqlalchemy import inspect
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from service.errors import SchemaVersionError, SecretError, StorageError
from service.gallery import galleries, migrations, schema
from service.gallery.catalog import Catalog
from service.gallery.postgresql import PostgresStorage
from service.gallery.sqlite import SqliteStorage
from service.identify.fusion import fuse


@pytest.fixture
def connection(place):
    storage = stored_at(place)
    with storage.writing.begin() as connection:
        yield connection
    storage.dispose()


def stored_at(place):
    return SqliteStorage.at(place) if isinstance(place, Path) else PostgresStorage.at(place)


def version(connection):
    return connection.exec_driver_sql("SELECT value FROM meta WHERE name = 'schema_version'").scalar_one()


def test_a_new_database_gets_all_tables_and_the_version(connection):
    migrations.prepare(connection)
    assert version(connection) == str(schema.VERSION)
    assert set(schema.metadata.tables) <= set(inspect(connection).get_table_names())


def test_preparing_twice_keeps_the_identity(connection):
    assert migrations.prepare(connection) == migrations.prepare(connection)


def test_two_catalogs_have_different_identities(connection, tmp_path):
    other = SqliteStorage.at(tmp_path / "other.sqlite")
    with other.writing.begin() as another:
        assert migrations.prepare(connection) != migrations.prepare(another)
    other.dispose()


def test_a_newer_catalog_is_refused(connection):
    migrations.prepare(connection, version=7)
    with pytest.raises(SchemaVersionError, match="version 7"):
        migrations.prepare(connection, version=6)


def test_an_older_catalog_is_brought_forward_step_by_step(connection):
    migrations.prepare(connection, version=1)
    steps = []
    through = {old: lambda _, old=old: steps.append(old) for old in (1, 2)}
    migrations.prepare(connection, version=3, migrations=through)
    assert steps == [1, 2]
    assert version(connection) == "3"


def test_an_older_catalog_without_a_known_step_is_refused(connection):
    migrations.prepare(connection, version=1)
    with pytest.raises(SchemaVersionError, match="cannot bring forward"):
        migrations.prepare(connection, version=2, migrations={})


def test_a_meta_table_of_something_else_is_refused(connection):
    connection.exec_driver_sql("CREATE TABLE meta (name TEXT, value TEXT)")
    with pytest.raises(StorageError, match="which catalog"):
        migrations.prepare(connection)


def test_a_newer_catalog_stops_the_opening(place):
    Catalog.open(place, secret=b"s", fuse=fuse).close()
    storage = stored_at(place)
    with storage.writing.begin() as raw:
        raw.exec_driver_sql("UPDATE meta SET value = '999' WHERE name = 'schema_version'")
    storage.dispose()
    with pytest.raises(SchemaVersionError, match="version 999"):
        Catalog.open(place, secret=b"s", fuse=fuse)


def test_a_catalog_opens_with_the_secret_that_it_was_made_with_and_no_other(place):
    Catalog.open(place, secret=b"s" * 32, fuse=fuse).close()
    with pytest.raises(SecretError, match="another secret"):
        Catalog.open(place, secret=b"t" * 32, fuse=fuse)
    Catalog.open(place, secret=b"s" * 32, fuse=fuse).close()


@pytest.mark.parametrize("table", schema.metadata.tables.values(), ids=lambda table: table.name)
def test_every_table_can_be_made_in_postgresql(table):
    assert "CREATE TABLE" in str(CreateTable(table).compile(dialect=postgresql.dialect()))


@pytest.mark.parametrize("table", [schema.galleries, schema.people, schema.templates], ids=lambda table: table.name)
def test_keys_have_64_bits_in_postgresql(table):
    assert "pk BIGSERIAL" in str(CreateTable(table).compile(dialect=postgresql.dialect()))


def aged(connection):
    """Take everything from a catalog that version 6 has and version 5 had not."""
    for table in (schema.fusions, schema.versions, schema.reindexings, schema.set_aside, schema.crops):
        table.drop(connection)
    connection.exec_driver_sql("ALTER TABLE galleries DROP COLUMN keep_crops")
    connection.exec_driver_sql("UPDATE meta SET value = '5' WHERE name = 'schema_version'")


def shape(connection):
    """Every table's columns: name, type, whether it may be empty."""
    return {
        name: {(each["name"], str(each["type"]), each["nullable"]) for each in inspect(connection).get_columns(name)}
        for name in schema.metadata.tables
    }


def test_a_catalog_of_version_5_is_brought_to_6_with_what_it_holds(place):
    catalog = Catalog.open(place, secret=b"s", fuse=fuse)
    with catalog.write() as tx:
        galleries.create(tx, "old", model="sface", model_digest="d", dim=16)
    catalog.close()
    storage = stored_at(place)
    with storage.writing.begin() as connection:
        new = shape(connection)
        aged(connection)
        assert not inspect(connection).has_table("crops")
        assert "keep_crops" not in {each["name"] for each in inspect(connection).get_columns("galleries")}
    storage.dispose()
    catalog = Catalog.open(place, secret=b"s", fuse=fuse)
    with catalog.write() as tx:
        assert version(tx.connection) == "6"
        assert shape(tx.connection) == new
        assert galleries.get(tx, "old").keep_crops is False
        assert galleries.create(tx, "new", model="sface", model_digest="d", dim=16, keep_crops=True).keep_crops is True
    catalog.close()
