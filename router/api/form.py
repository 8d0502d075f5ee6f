"""Finding one field in a multipart form; the form itself travels on as it came."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from router.errors import InvalidRequest

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_LONGEST_FIELD = 1024
_MOST_HEADERS = 1000  # of all parts together, since each takes microseconds; those of one the parser bounds
_STEP = 64 * 1024


class _FieldFinder:
    """Collects the value of the first part with the given name."""

    def __init__(self, name: bytes) -> None:
        self._name = name
        self._header = bytearray()
        self._value = bytearray()
        self._headers = 0
        self._wanted = False
        self.found: bytes | None = None

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_header_begin": self.on_header_begin,
            "on_header_field": self.on_header_field,
            "on_header_value": self.on_header_value,
            "on_header_end": self.on_header_end,
            "on_part_data": self.on_part_data,
            "on_part_end": self.on_part_end,
        }

    def on_header_begin(self) -> None:
        self._headers += 1
        if self._headers > _MOST_HEADERS:
            raise InvalidRequest(f"The multipart form has more than {_MOST_HEADERS} parts.")
        self._header.clear()
        self._value.clear()

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            _, options = parse_options_header(bytes(self._value))
            self._wanted = options.get(b"name") == self._name and self.found is None
            if self._wanted:
                self.found = b""

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._wanted and self.found is not None and len(self.found) < _LONGEST_FIELD:
            self.found += data[start:end]

    def on_part_end(self) -> None:
        self._wanted = False


async def field_of(body: bytes, content_type: str, name: str) -> str | None:
    """The value of a form's field, None when it is not there. Raises InvalidRequest if this is no multipart form.

    In steps, between which others have their turn.
    """
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise InvalidRequest("The body must be multipart/form-data, with a boundary in the content-type header.")
    finder = _FieldFinder(name.encode())
    try:
        parser = MultipartParser(boundary, finder.callbacks())
        for start in range(0, len(body), _STEP):
            parser.write(body[start : start + _STEP])
            await asyncio.sleep(0)
        parser.finalize()
    except FormParserError as error:
        raise InvalidRequest(f"The multipart form cannot be read: {error}.") from error
    return None if finder.found is None else finder.found.decode("utf-8", "replace")
