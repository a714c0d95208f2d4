"""Manifests: what rows say, and what is wrong with them."""

import csv
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from service.errors import ImportManifestError
from service.imports.manifests import entries_of
from service.imports.worker import PHOTOS, cut_into_shards

CELL = "881f8d7a49fffff"


def hashed(digits):
    return f"hash of {digits}"


@pytest.fixture
def entries(tmp_path):
    """Writes a manifest, and reads its entries."""

    def read(name, content, *, ready=False):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return list(entries_of(path, hashed, ready=ready))

    return read


@pytest.fixture
def parquet(tmp_path, entries):
    """Writes rows as Parquet, and reads their entries."""

    def read(rows):
        path = tmp_path / "people.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return list(entries_of(path, hashed, ready=False))

    return read


ROWS = [
    {
        "photo": "a.jpg",
        "person": "anna",
        "name": "Anna",
        "region": CELL,
        "device": "phone-7",
        "digits": "1234",
        "attributes": {"floor": 3},
    },
    {"photo": "b.jpg", "person": "bert"},
]
KNOWN = {"name": "Anna", "region": CELL, "device": "phone-7", "digits": "hash of 1234", "attributes": {"floor": 3}}


def expect(found):
    assert [(entry.photo, entry.person, entry.known, entry.fault) for entry in found] == [
        ("a.jpg", "anna", KNOWN, None),
        ("b.jpg", "bert", {}, None),
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_says_everything_about_a_person(entries, tmp_path, delimiter):
    path = tmp_path / "written.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(ROWS[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows([{**ROWS[0], "attributes": json.dumps({"floor": 3})}, ROWS[1]])
    expect(entries("people.csv", path.read_bytes()))


def test_json_lines_say_the_same(entries):
    expect(entries("people.jsonl", "\n".join(map(json.dumps, ROWS)) + "\n\n"))


def test_parquet_says_the_same(parquet):
    expect(parquet([{**ROWS[0], "attributes": json.dumps({"floor": 3})}, ROWS[1]]))


def test_a_byte_order_mark_is_no_part_of_the_first_column(entries):
    (entry,) = entries("people.csv", b"\xef\xbb\xbfphoto,person\na.jpg,anna\n")
    assert (entry.photo, entry.person) == ("a.jpg", "anna")


def test_a_point_becomes_the_cell_around_it(entries):
    text, member = entries("a.csv", 'photo,person,region\na,anna,"48.137,11.575"\n'), {"lat": 48.137, "lon": 11.575}
    lines = entries("a.jsonl", json.dumps({"photo": "a", "person": "anna", "region": member}))
    assert text[0].known["region"] == lines[0].known["region"] == "881f8d7a49fffff"


@pytest.mark.parametrize("name", ["people.csv", "people.jsonl"])
def test_unknown_columns_stop_the_import_and_are_named(entries, name):
    content = "photo,person,gallery\na,b,c\n" if name.endswith("csv") else '{"photo": "a", "person": "b", "gallery": 1}'
    with pytest.raises(ImportManifestError, match="unknown columns 'gallery'; known are photo, person"):
        entries(name, content)


def test_unknown_columns_of_parquet_too(parquet):
    with pytest.raises(ImportManifestError, match="unknown columns 'gallery'"):
        parquet([{"photo": "a", "person": "b", "gallery": "c"}])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("people.csv", "photo,person\na,b\n\xe4,b\n".encode("latin-1"), "not UTF-8"),
        ("people.csv", "photo,person\na,b\n".encode("utf-16"), "not UTF-8"),
        ("people.jsonl", b'{"photo": "\xe4"}', "line 1 is not UTF-8"),
        ("people.csv", b'photo,person\na,"b\n', "damaged after line"),
        ("people.csv", b"photo,person\na,b,c\n", "3 cells for 2 columns"),
        ("people.csv", b"photo,name\na,b\n", "person among them"),
        ("people.csv", b"person,person\na,b\n", "each column once"),
        ("people.csv", b"", "person among them"),
        ("people.csv", b"photo,person\n\0,b\n" + b'"' + b"x" * 200_000 + b'",b\n', "damaged after line"),
        ("people.jsonl", b"[1]", "no JSON object"),
        ("people.jsonl", b"{", "no JSON"),
        ("people.parquet", b"PAR1 and nothing else", "Parquet file is damaged"),
        ("people.xlsx", b"PK", "a manifest ends in"),
    ],
)
def test_a_manifest_that_cannot_be_read_says_where(entries, name, content, said):
    with pytest.raises(ImportManifestError, match=said):
        entries(name, content)


@pytest.mark.parametrize(
    ("row", "code", "said"),
    [
        ({"person": "anna"}, "invalid_request", "no photo"),
        ({"photo": "a"}, "invalid_request", "no person"),
        ({"photo": "a", "person": "a/b"}, "invalid_id", "does not contain"),
        ({"photo": "a", "person": "a", "region": "somewhere"}, "invalid_request", "H3 cell"),
        ({"photo": "a", "person": "a", "region": "north,south"}, "invalid_request", "lat,lon"),
        ({"photo": "a", "person": "a", "region": "91,0"}, "invalid_request", "between -90 and 90"),
        ({"photo": "a", "person": "a", "device": "a b"}, "invalid_id", "does not contain"),
        ({"photo": "a", "person": "a", "digits": "12a4"}, "invalid_request", "two to eight digits"),
        ({"photo": "a", "person": "a", "attributes": "[1]"}, "invalid_request", "JSON object"),
        ({"photo": "a", "person": "a", "attributes": "{"}, "invalid_request", "no JSON"),
        ({"photo": "a", "person": "a", "attributes": {"a": "x" * 20_000}}, "invalid_request", "no JSON that can"),
        ({"photo": "a", "person": "a", "name": "x" * 300}, "invalid_request", "at most 256"),
        ({"photo": "a", "person": "a", "quality": "good"}, "invalid_request", "from 0 to 1"),
    ],
)
def test_a_row_that_cannot_be_used_says_why_and_leaves_the_others_alone(entries, row, code, said):
    bad, good = entries("people.jsonl", f'{json.dumps(row)}\n{{"photo": "b", "person": "bert"}}\n')
    assert bad.fault[0] == code
    assert said in bad.fault[1]
    assert good.fault is None


def test_rows_of_ready_embeddings_need_no_photo_and_may_say_a_quality(entries):
    first, second = entries("people.csv", "person,quality\nanna,0.25\nbert,\n", ready=True)
    assert (first.photo, first.place, first.known["quality"]) == ("embedding 1", (0, 0), 0.25)
    assert (second.photo, second.place, second.known) == ("embedding 2", (1, 0), {})


def test_a_million_rows_of_one_person_are_read_in_bounded_memory(tmp_path):
    path = tmp_path / "million.csv"
    path.write_text("photo,person\n" + "".join(f"{number}.jpg,anna\n" for number in range(1_000_000)))
    shards = cut_into_shards(entries_of(path, hashed, ready=False), PHOTOS.shard)
    sizes = [len(next(shards))]
    before = resident_mb()
    sizes += map(len, shards)
    assert (sum(sizes), max(sizes)) == (1_000_000, 2 * PHOTOS.shard)
    assert resident_mb() - before < 20


def resident_mb():
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024
