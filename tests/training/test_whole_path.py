"""From photos of people to a service that knows them: prepare, train, evaluate, export, calibrate, serve."""

import shutil
from functools import partial

from service.artifact.manifest import Licence
from service.artifact.store import ModelStore
from service.settings import CHECKOUT
from tests.cli.running import vultus
from tests.conftest import Gallery, running
from tests.faces import orl, orl_photo
from training.config import load
from training.embed import embed, of_network
from training.evaluate import evaluate_people, open_model
from training.export import export
from training.figures import Curve
from training.prepare import prepare
from training.sources import open_source
from training.start import fresh, setting_of
from training.train import train

LICENCE = Licence(spdx="Apache-2.0", commercial=True, source="https://example.org")


def worth(model, crops):
    """MAP@R: whether a person's photos come before all others."""
    seen = evaluate_people(model, open_source(crops))
    return next(each["value"] for each in seen if not isinstance(each, Curve) and each["figure"] == "map@r")


def test_photos_of_people_become_a_model_that_the_service_identifies_with(tmp_path):
    for name, numbers in (("people", range(1, 9)), ("held-out", range(11, 19))):
        for person in numbers:
            (tmp_path / name / f"s{person}").mkdir(parents=True)
            for photo in range(1, 7):
                shutil.copy(orl() / f"s{person}" / f"{photo}.pgm", tmp_path / name / f"s{person}")
    prepared = prepare(tmp_path / "people", tmp_path / "crops", ModelStore(CHECKOUT / "models"), threads=1)
    assert prepared.crops == 48

    laptop = CHECKOUT / "training" / "configs" / "laptop.toml"
    changes = [
        f"data.train=['{tmp_path / 'crops'}']",
        f"run.folder={tmp_path / 'run'}",
        "data.workers=0",
        "run.threads=1",
    ]
    config = load(laptop, [*changes, "network.dim=32", "run.batch=16", "run.epochs=12"])
    untrained = partial(embed, of_network(fresh(setting_of(config)).network))
    train(config)

    # Of the people that it learns: eight people in 36 steps teach nothing about others.
    before = worth(untrained, tmp_path / "crops")
    assert worth(open_model(str(tmp_path / "run")), tmp_path / "crops") > before + 0.2

    models = ModelStore(tmp_path / "models")
    shutil.copytree(CHECKOUT / "models" / "yunet", models.folder / "yunet")
    manifest = export(tmp_path / "run", models, name="mine", licence=LICENCE, commit="abc")
    assert "bf16" in {each.precision for each in manifest.variants}
    assert worth(open_model("mine", models=models.folder), tmp_path / "crops") > before + 0.2

    for words in (("models", "check", "mine"), ("calibrate", "mine", str(tmp_path / "held-out"))):
        done = vultus(*words, data=tmp_path / "data", models=models.folder)
        assert done.returncode == 0, done.stdout + done.stderr
    record = models.manifest("mine").calibration
    assert record is not None
    assert (
        f"| calibrated | on photos in held-out, {record.people} people"
        in (models.folder / "mine" / "card.md").read_text()
    )

    with running(tmp_path / "data", models=models.folder, recognition_model="mine", min_quality=0) as service:
        gallery = Gallery(service, "office")
        assert service.post("/v1/galleries", json={"name": "office"}).status_code == 201
        for person in range(1, 9):
            gallery.enrolled(f"s{person}", *(orl_photo(person, photo) for photo in range(1, 5)))
        first = []
        for person in range(1, 9):
            for photo in range(7, 11):  # none of which the network has seen
                (face,) = gallery.identify(orl_photo(person, photo)).json()["faces"]
                first.append(face["candidates"][0]["person"] == f"s{person}")
        assert sum(first) >= 9  # guessing gives 4 of 32
