"""`vultus calibrate` of a gallery: what its people and its visits tell, over a data folder that no service runs on."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from service.gallery import galleries, people
from service.gallery.visits import NewVisit
from tests.cli.running import typed
from tests.conftest import running
from tests.recognition.test_own import PEOPLE, enrolled, strangers


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """A data folder with a gallery of 500 people, of whom p0 to p9 come to a device by turns."""
    data = tmp_path_factory.mktemp("town") / "data"
    with running(data) as service:
        service.post("/v1/galleries", json={"name": "town"})
        enrolled(service.product, "town", strangers())
        with service.product.catalog.write() as tx:
            pk = galleries.get(tx, "town").pk
            who = [people.get(tx, pk, f"p{number}").pk for number in range(10)]
            for days in range(300):
                at = datetime.now(UTC) - timedelta(days=days)
                service.product.visits.record(tx, pk, NewVisit(who[days % 10], None, "gate-7", None, None, at, "card"))
    return data


def test_a_gallery_is_measured_told_and_plotted(town, tmp_path):
    done = typed("calibrate", "--gallery", "town", "--plots", str(tmp_path / "plots"), data=town)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert f"Version 1 of town, {PEOPLE} people" in said
    assert f"Everybody: {PEOPLE * (PEOPLE - 1) // 2:,} pairs of two people" in said
    assert "Cllr 0." in said
    assert "minCllr 0." in said
    plotted = json.loads((tmp_path / "plots" / "town-all.json").read_text())
    assert len(plotted["mated"]) == len(plotted["edges"]) - 1
    assert (tmp_path / "plots" / "town-all.png").read_bytes().startswith(b"\x89PNG")


def test_the_prior_of_a_gallery_is_fitted_to_its_visits_and_told(town):
    done = typed("calibrate", "--gallery", "town", "--prior", data=town)
    assert done.returncode == 0, done.stderr
    assert "60 visits held out: the history tells" in " ".join(done.stdout.split())
    assert {"tau", "eps", "travel_d0"} <= {line.split()[0] for line in done.stdout.splitlines() if line.split()}
