"""The highest key that each table ever gave out: a key is never used twice, not after a restore either."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, Table, text

from service.gallery.schema import metadata


def counting() -> tuple[Table, ...]:
    """The tables whose keys the database counts."""
    return tuple(table for table in metadata.sorted_tables if table.autoincrement_column is not None)


def read(connection: Connection) -> dict[str, int]:
    """Return the highest key given out, by the table's name; 0 where there was none."""
    if connection.dialect.name == "sqlite":
        given = {str(name): int(seq) for name, seq in connection.execute(text("SELECT name, seq FROM sqlite_sequence"))}
        return {table.name: given.get(table.name, 0) for table in counting()}
    return {table.name: _sequence(connection, table) for table in counting()}


def write(connection: Connection, highest: Mapping[str, int]) -> None:
    """Let every table that counts go on behind `highest`."""
    for table in counting():
        value = int(highest.get(table.name, 0))
        if not value:
            continue
        if connection.dialect.name == "sqlite":
            row = {"name": table.name, "value": value}
            connection.execute(text("DELETE FROM sqlite_sequence WHERE name = :name"), row)
            connection.execute(text("INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :value)"), row)
        else:
            connection.execute(
                text("SELECT setval(pg_get_serial_sequence(:name, 'pk'), :value)"), {"name": table.name, "value": value}
            )


def _sequence(connection: Connection, table: Table) -> int:
    name = connection.execute(text("SELECT pg_get_serial_sequence(:name, 'pk')"), {"name": table.name}).scalar_one()
    last, called = connection.execute(text(f"SELECT last_value, is_called FROM {name}")).one()  # noqa: S608 - the database's own name
    return int(last) if called else 0
