import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from service.cli import app
from service.cli.contact_sheet import FRAMES
from service.cli.demo_people import cast_from, outcome_of
from service.errors import InvalidRequestError
from tests.cli.running import typed
from tests.faces import orl, orl_photo


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Eight people of the ORL faces, three photos each."""
    folder = tmp_path_factory.mktemp("people")
    for person in range(1, 9):
        (folder / f"s{person}").mkdir()
        for number in (1, 2, 3):
            (folder / f"s{person}" / f"{number}.pgm").write_bytes(orl_photo(person, number))
    return folder


@pytest.fixture(scope="module", autouse=True)
def own_data(tmp_path_factory):
    """Keep the demo out of the data folder of the checkout."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VULTUS_DATA", str(tmp_path_factory.mktemp("own") / "data"))
        yield


@pytest.fixture(scope="module")
def shown(service, people, tmp_path_factory):
    """The demo, run twice, so that the gallery of the first run is there; its figures."""
    sheet = tmp_path_factory.mktemp("sheet") / "sheet.png"
    words = ["demo", "--photos", str(people), "--sheet", str(sheet), "--url", service.url, "--json"]
    for _ in range(2):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_the_demo_finds_whom_it_enrolled_and_nobody_else(shown):
    assert {name: shown[name] for name in ("people", "found", "missed", "wrong", "kept_out")} == {
        "people": 6,
        "found": 6,
        "missed": 0,
        "wrong": 0,
        "kept_out": 2,
    }


def test_without_a_running_service_the_demo_opens_the_galleries_itself(people, data, tmp_path):
    sheet = tmp_path / "sheet.png"
    done = typed("demo", "--photos", str(people), "--sheet", str(sheet), "--json", data=data)
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert (shown["found"], shown["kept_out"]) == (6, 2)
    assert sheet.is_file()


def test_the_demo_verifies_a_pair(shown):
    assert shown["verify"]["same"]


def test_the_contact_sheet_frames_right_answers_in_green(shown):
    with Image.open(shown["sheet"]) as sheet:
        assert sheet.getpixel((12, 12)) == FRAMES["right"]


def test_the_table_shows_every_visitor(service, people, tmp_path):
    words = ["demo", "--photos", str(people), "--sheet", str(tmp_path / "sheet.png"), "--url", service.url]
    lines = CliRunner().invoke(app, words).stdout.splitlines()
    assert sum(" match " in line for line in lines) == 6
    assert sum("(unknown)" in line for line in lines) == 2


def test_thirty_of_the_orl_people_are_enrolled_and_ten_are_strangers():
    cast = cast_from(orl())
    assert [visitor.person for visitor in cast if visitor.enrolled] == [f"s{number}" for number in range(1, 31)]
    assert [visitor.person for visitor in cast if not visitor.enrolled] == [f"s{number}" for number in range(31, 41)]


def test_a_probe_is_never_one_of_the_enrolled_photos(people):
    assert all(visitor.probe not in visitor.enrolled for visitor in cast_from(people))


def test_a_folder_without_two_people_is_refused(tmp_path):
    (tmp_path / "anna").mkdir()
    (tmp_path / "anna" / "1.jpg").touch()
    (tmp_path / "anna" / "2.jpg").touch()
    with pytest.raises(InvalidRequestError, match="two people"):
        cast_from(tmp_path)


@pytest.mark.parametrize(
    ("place", "decision", "person", "outcome"),
    [
        (0, "match", "s1", "right"),
        (0, "match", "s2", "wrong"),
        (0, "unknown", None, "missed"),
        (-1, "match", "s1", "wrong"),
        (-1, "unknown", None, "right"),
    ],
)
def test_an_answer_is_judged(people, place, decision, person, outcome):
    assert outcome_of(cast_from(people)[place], {"decision": decision, "person": person}) == outcome
