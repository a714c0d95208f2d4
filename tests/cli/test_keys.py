import json

import pytest
from typer.testing import CliRunner

from service.cli import app


@pytest.fixture
def type_in(monkeypatch, tmp_path):
    monkeypatch.setenv("VULTUS_DATA", str(tmp_path / "data"))

    def run(*words: str, code: int = 0):
        done = CliRunner().invoke(app, ["keys", *words])
        assert done.exit_code == code, done.output
        return done

    return run


def test_a_key_is_printed_alone_so_that_a_script_can_take_it(type_in):
    (line,) = type_in("create", "--label", "door").stdout.splitlines()
    assert line.startswith("vk_")


def test_a_key_may_do_everything_but_embed_unless_told_otherwise(type_in):
    made = json.loads(type_in("create", "--label", "door", "--json").stdout)
    assert made["scopes"] == ["enroll", "identify", "manage", "read"]


def test_a_key_has_the_scopes_asked_for(type_in):
    made = json.loads(type_in("create", "--label", "door", "--scope", "identify", "--scope", "embed", "--json").stdout)
    assert made["scopes"] == ["embed", "identify"]


def test_an_unknown_scope_is_refused(type_in):
    assert "there is no scope 'root'" in type_in("create", "--label", "door", "--scope", "root", code=1).stderr


def test_a_listing_never_shows_the_secret(type_in):
    text = json.loads(type_in("create", "--label", "door", "--json").stdout)["text"]
    listed = type_in("list", "--json").stdout
    assert text.split("_")[1] in listed
    assert text.split("_", 2)[2] not in listed


def test_a_revoked_key_is_listed_as_revoked(type_in):
    key = json.loads(type_in("create", "--label", "door", "--json").stdout)["key"]
    type_in("revoke", key)
    assert "revoked" in type_in("list").stdout


def test_a_key_that_does_not_exist_cannot_be_revoked(type_in):
    assert type_in("revoke", "nope", code=1).stderr.startswith("error [not_found]")


def test_keys_are_made_beside_a_running_service(type_in, service, monkeypatch):
    monkeypatch.setenv("VULTUS_DATA", str(service.data))
    key = json.loads(type_in("create", "--label", "beside", "--json").stdout)["key"]
    type_in("revoke", key)
    assert f"{key}  beside" in type_in("list").stdout


def test_keys_of_a_shared_catalog_are_made_where_its_secret_is(type_in, monkeypatch, postgres_server, tmp_path):
    (tmp_path / "shared").write_bytes(b"s" * 32)
    monkeypatch.setenv("VULTUS_CATALOG", postgres_server.database())
    monkeypatch.setenv("VULTUS_SECRET", str(tmp_path / "shared"))
    type_in("create", "--label", "door")
    monkeypatch.setenv("VULTUS_DATA", str(tmp_path / "another replica"))
    assert [key["label"] for key in json.loads(type_in("list", "--json").stdout)] == ["door"]
    assert not (tmp_path / "data" / "catalog.sqlite").exists()
