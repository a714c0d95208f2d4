"""The words that speak to a service: to a running one, as users type them."""

import json

import httpx
import pytest
from typer.testing import CliRunner

from service import __version__
from service.cli import app


@pytest.fixture
def type_in(service, monkeypatch, tmp_path):
    """Run a command in this process against the shared service."""
    monkeypatch.setenv("VULTUS_DATA", str(tmp_path / "data"))

    def run(*words: str, code: int = 0, url: str = service.url, stdin: str = ""):
        done = CliRunner().invoke(app, [*words, "--url", url], input=stdin)
        assert done.exit_code == code, done.output
        return done

    return run


@pytest.fixture
def gallery(type_in, request):
    """A gallery of its own for a test."""
    name = f"g{abs(hash(request.node.name))}"
    type_in("galleries", "create", name)
    yield name
    type_in("galleries", "delete", name, "--yes")


@pytest.fixture
def anna(type_in, gallery, photo):
    """A gallery with one person, `anna`."""
    type_in("enroll", gallery, "anna", photo(10, 1), photo(10, 2))
    return gallery


def test_help_names_every_word():
    given = CliRunner().invoke(app, ["--help"]).output
    operate = ["serve", "demo", "models", "calibrate", "keys", "backup", "restore", "doctor"]
    speak = ["galleries", "people", "enroll", "identify", "verify", "forget"]
    assert [word for word in operate + speak if f" {word} " not in given] == []


def test_the_version_is_the_packages():
    assert CliRunner().invoke(app, ["--version"]).output == f"vultus {__version__}\n"


def test_an_unknown_word_is_a_usage_error():
    assert CliRunner().invoke(app, ["enrol"]).exit_code == 2


def test_a_created_gallery_is_listed(type_in, gallery):
    listed = json.loads(type_in("galleries", "list", "--json").stdout)
    assert [each["people"] for each in listed if each["name"] == gallery] == [0]


def test_deleting_a_gallery_asks_first(type_in, gallery):
    done = type_in("galleries", "delete", gallery, stdin="n\n", code=1)
    assert "Delete gallery" in done.output
    assert gallery in type_in("galleries", "list").stdout


def test_an_error_of_the_service_is_one_line(type_in, photo):
    done = type_in("identify", "nowhere", photo(1, 1), code=1)
    assert done.stderr == "error [gallery_not_found]: there is no gallery named 'nowhere'\n"
    assert done.stdout == ""


def test_enroll_says_what_became_of_each_photo(type_in, gallery, photo, tmp_path):
    text = tmp_path / "notes.jpg"
    text.write_text("no photo")
    lines = type_in("enroll", gallery, "anna", photo(10, 1), str(text)).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["enrolled", "refused"]
    assert "photo_format" in lines[1]


def test_enroll_of_more_photos_than_fit_in_a_request_keeps_their_places(type_in, gallery, photo, tmp_path):
    text = tmp_path / "notes.jpg"
    text.write_text("no photo")
    photos = [photo(3, number) for number in range(1, 10)] + [photo(4, 1), str(text), photo(4, 2)]
    answer = json.loads(type_in("enroll", gallery, "anna", *photos, "--json").stdout)
    assert [each["photo"] for each in answer["enrolled"]] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11]
    assert [each["photo"] for each in answer["refused"]] == [10]


def test_enroll_of_nothing_but_refused_photos_fails_and_says_why(type_in, gallery, tmp_path):
    text = tmp_path / "notes.jpg"
    text.write_text("no photo")
    assert type_in("enroll", gallery, "anna", str(text), code=1).stderr.startswith("error [nothing_enrolled]")


def test_enroll_creates_the_gallery_when_told_to(type_in, photo):
    type_in("enroll", "fresh", "anna", photo(10, 1), "--create")
    type_in("enroll", "fresh", "anna", photo(10, 2), "--create")
    assert type_in("people", "list", "fresh").stdout.splitlines()[1].split() == ["anna", "2"]
    type_in("galleries", "delete", "fresh", "--yes")


def test_identify_names_the_person(type_in, anna, photo):
    assert type_in("identify", anna, photo(10, 4)).stdout.startswith("match anna ")


def test_identify_knows_an_unknown(type_in, anna, photo):
    assert type_in("identify", anna, photo(35, 1)).stdout.startswith("unknown ")


def test_identify_prints_the_answer_of_the_service_as_json(type_in, anna, photo):
    answer = json.loads(type_in("identify", anna, photo(10, 4), "--fpir", "0.01", "--json").stdout)
    assert (answer["faces"][0]["decision"], answer["faces"][0]["fpir"]) == ("match", 0.01)


def test_verify_compares_two_photos(type_in, photo):
    assert type_in("verify", photo(10, 1), photo(10, 4)).stdout.startswith("the same person")


def test_verify_compares_a_person_with_a_photo(type_in, anna, photo):
    assert type_in("verify", anna, "anna", photo(5, 1)).stdout.startswith("not the same person")


def test_verify_of_one_photo_is_a_usage_error(type_in, photo):
    type_in("verify", photo(10, 1), code=2)


def test_put_keeps_what_is_known_about_a_person(type_in, gallery):
    known = ["--name", "Anna Example", "--region", "48.137,11.575", "--attributes", '{"floor": 3}', "--digits", "1234"]
    type_in("people", "put", gallery, "anna", *known)
    person = json.loads(type_in("people", "show", gallery, "anna", "--json").stdout)
    assert (person["name"], person["attributes"], person["digits"]) == ("Anna Example", {"floor": 3}, True)


def test_a_person_is_shown_with_the_faces_that_are_kept(type_in, anna):
    shown = type_in("people", "show", anna, "anna").stdout.splitlines()
    assert shown[0] == "anna"
    assert sum(line.startswith("face f_") for line in shown) == 2


def test_attributes_that_are_no_json_are_refused(type_in, gallery):
    done = type_in("people", "put", gallery, "anna", "--attributes", "{floor: 3}", code=1)
    assert done.stderr.startswith("error [invalid_json]")


def test_forget_gives_a_receipt_and_the_person_is_gone(type_in, anna):
    assert "receipt r_" in type_in("forget", anna, "anna").stdout
    assert type_in("people", "show", anna, "anna", code=1).stderr.startswith("error [person_not_found]")


def test_a_listing_goes_on_over_pages(type_in, gallery, service):
    with service.client() as client:
        for number in range(101):
            client.put(f"/v1/galleries/{gallery}/people/p{number:03d}", json={}).raise_for_status()
    listed = json.loads(type_in("people", "list", gallery, "--json").stdout)
    assert [each["person"] for each in listed] == [f"p{number:03d}" for number in range(101)]


def test_a_service_that_does_not_answer_is_named(type_in):
    done = type_in("galleries", "list", url="http://127.0.0.1:9", code=1)
    assert done.stderr.startswith("error [unreachable]: http://127.0.0.1:9")


def test_a_url_needs_its_scheme(type_in):
    assert type_in("galleries", "list", url="localhost:8000", code=1).stderr.startswith("error [invalid_request]")


def test_calibrate_speaks_of_a_gallery_and_of_its_prior(type_in, anna, tmp_path):
    for words in (("--plots", str(tmp_path)), ("--prior",)):
        done = type_in("calibrate", "--gallery", anna, *words, code=1)
        assert done.stderr.startswith("error [calibration_impossible]")


def test_a_gallery_s_attributes_are_named_fitted_and_observed(type_in, service, photo, tmp_path):
    how = {"gender": {"kind": "category", "error": 0.03}}
    type_in("galleries", "create", "club", "--observed", json.dumps(how))
    for number, gender in enumerate("ffmm", 1):
        type_in("enroll", "club", f"p{number}", photo(number, 1))
        known = {"attributes": {"gender": gender}}
        httpx.patch(f"{service.url}/v1/galleries/club/people/p{number}", json=known).raise_for_status()
    cases = tmp_path / "cases.jsonl"
    cases.write_text("".join(f'{{"person": "p{n}", "observed": {{"gender": "f"}}}}\n' for n in (1, 2, 1, 2) * 20))
    done = type_in("calibrate", "--gallery", "club", "--observed", str(cases)).stdout
    assert "gender counts with a power of" in done

    def odds(*words):
        answer = json.loads(type_in("identify", "club", photo(1, 2), "--device", "gate", *words, "--json").stdout)
        return answer["faces"][0]["candidates"][0]["prior_log_odds"]

    seen = ("--context", '{"observed": {"gender": "f"}}')
    assert odds(*seen) > odds() == odds("--context", "{}")
    assert odds(*seen, "--no-prior") == odds("--no-prior")
    said = type_in("identify", "club", photo(1, 2), *seen, "--certainty", "0.3", "--safe").stdout
    assert "Before the face was compared, p1 was" in " ".join(said.split())
    type_in("galleries", "delete", "club", "--yes")


@pytest.mark.parametrize("text", ["[1]", "gate", "{", pytest.param("[" * 10_000, id="too deep")])
def test_a_context_that_is_no_json_object_is_said_so(type_in, anna, photo, text):
    done = type_in("identify", anna, photo(1, 1), "--context", text, code=1)
    assert done.stderr == f"error [invalid_request]: --context is not a JSON object: {text}\n"


@pytest.mark.parametrize(
    "words",
    [
        ("galleries", "delete", "{anna}/people/anna", "--yes"),
        ("forget", "{anna}", "x/../anna"),
        ("forget", "{anna}", ".."),
        ("people", "show", "{anna}", "."),
    ],
)
def test_a_name_that_reads_as_a_path_is_refused(type_in, anna, words):
    done = type_in(*(word.format(anna=anna) for word in words), code=1)
    assert done.stderr.startswith("error [invalid_id]: an identifier does not ")
    assert json.loads(type_in("people", "show", anna, "anna", "--json").stdout)["face_count"] == 2


def test_calibrate_wants_one_thing_at_a_time(type_in, anna, tmp_path):
    (tmp_path / "cases").touch()
    done = type_in("calibrate", "--gallery", anna, "--prior", "--observed", str(tmp_path / "cases"), code=1)
    assert done.stderr.startswith("error [invalid_request]: say one of: ")
