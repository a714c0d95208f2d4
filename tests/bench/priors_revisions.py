"""What a request costs that is the first after a change: a gallery of a million in a real catalog, one device.

An enrolment, a move, a departure or a visit makes a new revision (or a newer last visit), and the next request with a
context follows it: everybody's homes, the visits of the device, the prior, the budget and the tiers.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import h3
import numpy as np
from sqlalchemy import insert

from service.gallery import faces, forgetting, galleries, people
from service.gallery.catalog import Catalog
from service.gallery.records import NewTemplate, PersonChanges, PersonFields
from service.gallery.schema import people as table
from service.gallery.visits import CatalogVisits, NewVisit
from service.identify.fusion import fuse
from service.identify.planner import SCAN_SHARE
from service.identify.prior import Habits
from service.identify.travel import Gravity
from service.recognition.calibrated import Calibrated
from service.recognition.expectations import Context, Expectations
from tests.bench.priors_scores import scale
from tests.bench.report import Report, note

DIM, REGIONS, VISITS, REGULARS = 8, 400, 400, 150
AT_ONCE = 20_000
TURNS = 15


class Changing:
    """A gallery of so many people that changes by one at a time."""

    def __init__(self, catalog: Catalog, size: int) -> None:
        self.catalog, self.visits, self.number = catalog, CatalogVisits(), 0
        self.random = np.random.default_rng(0)
        places = 48 + 3 * self.random.random(REGIONS), 8 + 4 * self.random.random(REGIONS)
        self.cells = [h3.latlng_to_cell(lat, lon, 8) for lat, lon in zip(*places, strict=True)]
        now = datetime.now(UTC)
        with catalog.write() as tx:
            self.pk = galleries.create(tx, "million", model="m", model_digest="d", dim=DIM).pk
            common = {"gallery_pk": self.pk, "attributes": {}, "created_at": now, "updated_at": now, "faces": 1}
            common |= {"revision": tx.revise(self.pk), "fused": bytes(4 * DIM)}
            for first in range(0, size, AT_ONCE):
                homes = self.random.integers(0, REGIONS, min(AT_ONCE, size - first))
                some = [
                    {**common, "person": f"p{first + place}", "region": self.cells[home]}
                    for place, home in enumerate(homes.tolist())
                ]
                tx.connection.execute(insert(table), some)
        with catalog.write() as tx:
            for _ in range(VISITS):
                who = min(int(self.random.zipf(1.5)), REGULARS) * (size // REGULARS // 2)
                self._visit(tx, who, now - timedelta(days=float(100 * self.random.random())))

    def _visit(self, tx, who: int, at: datetime) -> None:  # type: ignore[no-untyped-def]
        cell = self.cells[0]
        new = NewVisit(who, cell, "gate", cell, h3.cell_to_parent(cell, 5), at, "card")
        self.visits.record(tx, self.pk, new)

    def enrol(self) -> str:
        """Somebody new."""
        self.number += 1
        name = f"new{self.number}"
        vector = self.random.standard_normal(DIM).astype(np.float32)
        template = NewTemplate(
            hashlib.sha256(name.encode()).hexdigest(), vector / np.linalg.norm(vector), 0.7, (0, 0, 0, 0)
        )
        with self.catalog.write() as tx:
            people.create(tx, self.pk, name, PersonFields(region=self.cells[3]))
            faces.add(tx, self.pk, name, [template], limit=5)
        return name

    def move(self) -> None:
        """Somebody moves house."""
        with self.catalog.write() as tx:
            person = f"p{int(self.random.integers(0, 1000))}"
            people.patch(tx, self.pk, person, PersonChanges(region=self.cells[int(self.random.integers(0, REGIONS))]))

    def leave(self) -> None:
        """Somebody who came of late is forgotten."""
        with self.catalog.write() as tx:
            forgetting.forget(tx, self.pk, f"new{self.number}")
        self.number -= 1

    def visit(self) -> None:
        """A visit at the device."""
        with self.catalog.write() as tx:
            self._visit(tx, 1001, datetime.now(UTC))


def revisions(report: Report, size: int) -> None:
    """How long the first request with a context takes after each kind of change."""
    with tempfile.TemporaryDirectory(prefix="vultus-bench-") as folder:
        catalog = Catalog.open(Path(folder) / "catalog.sqlite", secret=b"s" * 32, fuse=fuse)
        note(f"making a catalog of {size:,} people ...")
        gallery = Changing(catalog, size)
        calibrated = Calibrated(scale(120, 0.0, int(60 * size / 3e-3)))
        expectations = Expectations(catalog, gallery.visits, calibrated, Habits(), Gravity())

        def asked() -> float:
            started = time.perf_counter()
            now = datetime.now(UTC)
            expectations.of(gallery.pk, Context(device="gate"), 3e-3, insist=True, now=now, scan_share=SCAN_SHARE)
            return 1000 * (time.perf_counter() - started)

        report.figure("first_context_s", round(asked() / 1000, 2), "s", people=size)
        changes: dict[str, Callable[[], object]] = {
            "nothing": lambda: None,
            "enrolment": gallery.enrol,
            "move": gallery.move,
            "departure": gallery.leave,
            "visit": gallery.visit,
        }
        for change, make in changes.items():
            spent = []
            for _ in range(TURNS):
                make()
                spent.append(asked())
            report.figure("revision_ms_median", round(float(np.median(spent)), 2), "ms", after=change, people=size)
        catalog.close()
