"""Whether a request is asked for as a stream, and the sink that makes its one answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from router.proxy.assembly import wish
from router.proxy.assembly.chat import Chat
from router.proxy.assembly.document import Document
from router.proxy.assembly.messages import Messages
from router.proxy.assembly.responses import Responses
from router.proxy.assembly.sink import AssemblingSink
from router.proxy.assembly.text import OwnText, Text
from router.wire.sink import Sink

# Of a larger body, which no context holds, to look at the request would keep everybody else waiting.
LARGEST_REQUEST = 8 * 1024 * 1024
_STREAM = b',"stream":true}'
_STREAM_WITH_USAGE = b',"stream":true,"stream_options":{"include_usage":true}}'


@dataclass(frozen=True, slots=True)
class _Kind:
    document: Callable[[], Document]
    asking: bytes = _STREAM


_KINDS: Mapping[str, _Kind] = {
    "/v1/chat/completions": _Kind(Chat, _STREAM_WITH_USAGE),
    "/chat/completions": _Kind(Chat, _STREAM_WITH_USAGE),
    "/v1/completions": _Kind(Text),
    "/completion": _Kind(OwnText),
    "/completions": _Kind(OwnText),
    "/v1/messages": _Kind(Messages),
    "/v1/responses": _Kind(Responses),
    "/responses": _Kind(Responses),
}


@dataclass(frozen=True, slots=True)
class Assembly:
    """A request that is sent as a stream in place of what its client sent; see `Detour`.

    What a stream fails to tell is rare: text in which a template's parser finds nothing, Anthropic messages that begin
    with half of a character. Such an answer is `Untold`, to be asked for as its client did.
    """

    _plain: bytes
    _kind: _Kind

    @property
    def body(self) -> bytes:
        """The client's, byte for byte, with `stream` said once more at its end.

        Of two members of one name llama-server takes the last.
        """
        end = self._plain.rindex(b"}")
        return b"".join((memoryview(self._plain)[:end], self._kind.asking))

    def sink(self, inner: Sink, on_progress: Callable[[], None]) -> Sink:
        """A sink for one attempt that gives `inner` the document instead of the stream.

        Args:
            on_progress: called for each read that brought more of the answer, which `inner` does not hear of.
        """
        return AssemblingSink(self._kind.document(), inner, on_progress=on_progress)


def plan(path: str, body: bytes, *, n: object, max_tokens: object) -> Assembly | None:
    """How to ask for the answer to a request that is not to be streamed; None = as it came.

    Args:
        path: of the upstream's endpoint, without a query.
        body: a JSON object that has been found valid.
        n, max_tokens: as far as they are known already, to save reading, whatever they are; None = see the body.
    """
    kind = _KINDS.get(path)
    if kind is None or len(body) > LARGEST_REQUEST or (n or 1) != 1 or wish.short(max_tokens):
        return None
    wished = wish.read(body)
    if wished is None or not wish.lossless(wished):
        return None
    return Assembly(body, kind)
