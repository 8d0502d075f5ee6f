"""What the assembled answers of all endpoints have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec
from msgspec import Raw

ABSENT = Raw(b"")
Fields = dict[str, Raw]

encode = msgspec.json.encode
fields_of = msgspec.json.Decoder(Fields).decode


class Unfinished(Exception):
    """The stream has come to its end and not told all that the document needs."""


class Refused(Exception):
    """The stream says that there will be no answer.

    Attributes:
        error: the error object as JSON.
    """

    def __init__(self, error: Raw) -> None:
        super().__init__(bytes(error))
        self.error = error


class Document(Protocol):
    """An answer that grows event by event.

    Attributes:
        complete: the stream's last event has been taken.
    """

    complete: bool

    @property
    def held(self) -> int:
        """About how many characters it holds."""

    def take(self, data: bytes) -> None:
        """Add an event. Raises Refused, and msgspec.DecodeError for what is not an event of this endpoint."""

    def built(self) -> bytes:
        """The whole as JSON, in the words and the order of llama-server. Raises Unfinished."""


def check(error: Raw) -> None:
    """Raise Refused if an event tells an error."""
    if error and bytes(error) != b"null":
        raise Refused(error)


def check_silence(usage: Raw, name: str) -> None:
    """For an answer without any content: raise Unfinished unless no more than an end was written.

    Of text in which a template's parser finds nothing a stream says nothing, but the document has it as it is.
    """
    if int(bytes(fields_of(usage).get(name, Raw(b"0")))) > 1:
        raise Unfinished("it tells nothing of what was written")


def present(fields: Mapping[str, Raw]) -> Fields:
    """Those that were told."""
    return {name: value for name, value in fields.items() if value}
