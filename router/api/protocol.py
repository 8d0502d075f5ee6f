"""HTTP that cannot be parsed is answered below the app, and told in the same shape as everything else."""

from __future__ import annotations

import uuid

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from router.errors import InvalidRequest
from router.proxy.dialect import Dialect, ErrorInfo, error_body


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's, but for the answer to a request that is no HTTP."""

    def send_400_response(self, msg: str) -> None:
        """Answer and close; what follows on this connection cannot be trusted."""
        request_id = uuid.uuid4().hex
        error = InvalidRequest(f"This is not valid HTTP: {msg}")
        body = error_body(ErrorInfo.of(error), Dialect.OPENAI, request_id)
        head = (
            "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n"
            f"content-length: {len(body)}\r\nx-request-id: {request_id}\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
