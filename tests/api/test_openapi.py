"""The OpenAPI document is complete: every route, its bodies with examples, its errors in the one shape."""

import pytest

from service.api.documentation import bodies as known_bodies
from tests.conftest import MEMBERS, PROBLEM

ROUTES = {
    ("get", "/v1/galleries"),
    ("post", "/v1/galleries"),
    ("get", "/v1/galleries/{gallery}"),
    ("patch", "/v1/galleries/{gallery}"),
    ("delete", "/v1/galleries/{gallery}"),
    ("get", "/v1/galleries/{gallery}/people"),
    ("get", "/v1/galleries/{gallery}/people/{person}"),
    ("put", "/v1/galleries/{gallery}/people/{person}"),
    ("patch", "/v1/galleries/{gallery}/people/{person}"),
    ("delete", "/v1/galleries/{gallery}/people/{person}"),
    ("post", "/v1/galleries/{gallery}/people/{person}/faces"),
    ("delete", "/v1/galleries/{gallery}/people/{person}/faces/{face}"),
    ("post", "/v1/galleries/{gallery}/identify"),
    ("post", "/v1/galleries/{gallery}/people/{person}/verify"),
    ("post", "/v1/galleries/{gallery}/visits"),
    ("post", "/v1/galleries/{gallery}/habits"),
    ("post", "/v1/galleries/{gallery}/observed"),
    ("get", "/v1/galleries/{gallery}/calibration"),
    ("post", "/v1/galleries/{gallery}/calibration"),
    ("get", "/v1/galleries/{gallery}/imports"),
    ("post", "/v1/galleries/{gallery}/imports"),
    ("get", "/v1/galleries/{gallery}/imports/{job}"),
    ("delete", "/v1/galleries/{gallery}/imports/{job}"),
    ("get", "/v1/galleries/{gallery}/imports/{job}/report"),
    ("post", "/v1/verify"),
    ("post", "/v1/faces/detect"),
    ("post", "/v1/faces/embed"),
    ("get", "/v1/models"),
    ("get", "/health/live"),
    ("get", "/health/ready"),
    ("get", "/metrics"),
}


@pytest.fixture(scope="module")
def document(service):
    return service.get("/openapi.json").json()


@pytest.fixture(scope="module")
def operations(document):
    return {(method, path): told for path, item in document["paths"].items() for method, told in item.items()}


@pytest.fixture(params=sorted(ROUTES), ids=" ".join)
def operation(request, operations):
    return operations[request.param]


def everything_in(node):
    yield node
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from everything_in(inner)


def resolved(document, schema):
    return document["components"]["schemas"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def test_every_route_of_the_design_is_there(operations):
    assert operations.keys() == ROUTES


def test_every_reference_leads_somewhere(document):
    references = {node["$ref"] for node in everything_in(document) if isinstance(node, dict) and "$ref" in node}
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert references <= known
    assert "#/components/schemas/Problem" in references


def test_every_operation_has_a_name_of_its_own(operations):
    names = [told["operationId"] for told in operations.values()]
    assert len(set(names)) == len(names)


def test_every_part_of_a_path_is_a_parameter(operations):
    for (_, path), told in operations.items():
        stated = {parameter["name"] for parameter in told.get("parameters", []) if parameter["in"] == "path"}
        assert stated == {part[1:-1] for part in path.split("/") if part.startswith("{")}


def test_a_route_says_what_it_does(operation):
    assert operation["description"].endswith(".")


def test_every_error_has_the_one_shape(document, operation):
    errors = {status: told for status, told in operation["responses"].items() if status >= "400"}
    assert errors.keys() >= {"500", "503"}
    for told in errors.values():
        assert list(told["content"]) == [PROBLEM]
        assert set(resolved(document, told["content"][PROBLEM]["schema"])["required"]) == MEMBERS


def test_every_json_body_and_answer_has_an_example_that_fits(document, operation):
    bodies = [operation.get("requestBody", {})]
    bodies += [told for status, told in operation["responses"].items() if status < "300"]
    for body in bodies:
        schema = body.get("content", {}).get("application/json", {}).get("schema")
        if schema:
            described = resolved(document, schema)
            assert described["examples"], described["title"]
            for example in described["examples"]:
                known_bodies()[described["title"]].model_validate(example)


def test_every_quality_says_what_it_is(document):
    schemas = document["components"]["schemas"]
    told = {
        name: schema["properties"]["quality"] for name, schema in schemas.items() if "quality" in schema["properties"]
    }
    assert told.keys() >= {"EnrolledOut", "FaceOut", "IdentifiedOut", "SeenOut", "EnrollJson"}
    for each in told.values():
        parts = resolved(document, each)["properties"].values() if "$ref" in each else [each]
        assert all(part["description"] for part in parts)


def test_photos_may_come_as_a_form_or_as_json(operations):
    for (_, path), told in operations.items():
        if path.endswith(("/faces", "/identify", "/verify", "/detect", "/embed")):
            content = told["requestBody"]["content"]
            assert content.keys() == {"multipart/form-data", "application/json"}
            form = content["multipart/form-data"]["schema"]
            assert set(form["required"]) <= form["properties"].keys()
            assert all(name.startswith("photo") for name in form["required"])


def test_every_write_takes_an_idempotency_key(operations):
    for (method, path), told in operations.items():
        reads = method == "get" or path.endswith(("/identify", "/verify", "/detect", "/embed"))
        headers = {parameter["name"] for parameter in told.get("parameters", []) if parameter["in"] == "header"}
        assert ("Idempotency-Key" in headers) == (not reads)
        if not reads:
            assert {"409", "422", "507"} <= told["responses"].keys()
