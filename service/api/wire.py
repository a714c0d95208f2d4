"""What arrives and is no HTTP: answered in the one shape of errors, where uvicorn would answer in plain text."""

from __future__ import annotations

import logging

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.api.middleware import new_id
from service.api.problems import response
from service.errors import MalformedHttpError

log = logging.getLogger("vultus.access")


class Protocol(HttpToolsProtocol):
    """A connection of a client; what it sends reaches the application only once it could be parsed."""

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's, which says no more than the title
        """Say that it could not be, and hang up: where the next request would begin is not known."""
        request_id = new_id()
        answer = response(MalformedHttpError("what was sent cannot be read as HTTP/1.1"), request_id)
        headers = [*self.server_state.default_headers, *answer.raw_headers, (b"connection", b"close")]
        head = b"".join(b"%b: %b\r\n" % header for header in headers)
        self.transport.write(STATUS_LINE[answer.status_code] + head + b"\r\n" + bytes(answer.body))
        self.transport.close()
        log.info("malformed none %d id=%s", answer.status_code, request_id)
