"""Which service a command speaks to."""

import json
import socket

from tests.cli.running import serving, vultus
from tests.ports import free_port


def test_without_a_running_service_a_command_opens_the_galleries_itself(data, photo):
    port = free_port()
    vultus("enroll", "staff", "anna", photo(10, 1), "--create", data=data, port=port)
    found = vultus("identify", "staff", photo(10, 4), "--json", data=data, port=port)
    assert json.loads(found.stdout)["faces"][0]["person"] == "anna"


def test_a_service_on_the_port_of_the_settings_is_found(data):
    port = free_port()
    with serving(data, port=port):
        # The data folder is in use, so the command cannot have opened it itself.
        assert vultus("galleries", "list", "--json", data=data, port=port).stdout == "[]\n"


def test_another_program_on_the_port_is_no_service(data):
    with socket.create_server(("127.0.0.1", 0)) as other:
        done = vultus("galleries", "list", "--json", data=data, port=other.getsockname()[1])
    assert (done.returncode, done.stdout) == (0, "[]\n")


def test_the_key_of_the_settings_is_sent_and_needed(data):
    made = json.loads(vultus("keys", "create", "--label", "door", "--json", data=data).stdout)
    with serving(data) as running:
        refused = vultus("galleries", "list", "--url", running.url, data=data)
        allowed = vultus("galleries", "list", "--url", running.url, data=data, key=made["text"])
    assert refused.stderr.startswith("error [unauthorized]")
    assert allowed.returncode == 0
