import json
import socket

import pytest
from typer.testing import CliRunner

from service.cli import app


@pytest.fixture
def findings(monkeypatch, tmp_path):
    """The doctor's findings by part, under some settings."""

    def run(code: int, **settings):
        for name, value in {"data": tmp_path / "data", "port": 0, **settings}.items():
            monkeypatch.setenv(f"VULTUS_{name.upper()}", str(value))
        done = CliRunner().invoke(app, ["doctor", "--json"])
        assert done.exit_code == code, done.output
        return {each["part"]: each for each in json.loads(done.stdout)}

    return run


def test_a_sound_installation_has_no_problem(findings):
    assert [each for each in findings(0).values() if not each["fine"]] == []


def test_missing_models_are_a_problem_with_its_remedy(findings, checkout_manifests):
    assert "vultus models fetch sface" in findings(1, models=checkout_manifests)["model sface"]["says"]


def test_a_port_taken_by_another_program_is_a_problem(findings, checkout_manifests):
    with socket.create_server(("127.0.0.1", 0)) as other:
        found = findings(1, models=checkout_manifests, port=other.getsockname()[1])
    assert "VULTUS_PORT" in found["port"]["says"]


def test_a_running_service_on_the_port_is_none(findings, checkout_manifests, service):
    found = findings(1, models=checkout_manifests, port=service.url.rsplit(":", 1)[1])
    assert found["port"]["fine"]


def test_a_data_folder_that_cannot_be_made_is_a_problem(findings, checkout_manifests):
    assert not findings(1, models=checkout_manifests, data="/proc/vultus")["data"]["fine"]


def test_a_shared_catalog_and_redis_that_answer_are_as_they_should_be(
    findings, checkout_manifests, postgres_server, redis_session
):
    found = findings(1, models=checkout_manifests, catalog=postgres_server.database(), redis=redis_session.url)
    assert found["catalog"]["fine"]
    assert found["catalog"]["says"].startswith("PostgreSQL 1")
    assert found["redis"]["fine"]


@pytest.mark.parametrize("password", ["wrong", None])
def test_a_shared_catalog_and_redis_that_do_not_are_problems_with_their_remedy(
    findings, checkout_manifests, postgres_server, redis_session, password
):
    ports = (postgres_server.port, redis_session.port) if password else (1, 1)
    found = findings(
        1,
        models=checkout_manifests,
        catalog=f"postgresql://owner:wrong@127.0.0.1:{ports[0]}/postgres",
        redis=f"redis://:wrong@127.0.0.1:{ports[1]}/0",
    )
    says = "refuses the user or the password" if password else "does not answer"
    for part in ("catalog", "redis"):
        assert not found[part]["fine"]
        assert says in found[part]["says"]
    assert "VULTUS_CATALOG" in found["catalog"]["says"]
