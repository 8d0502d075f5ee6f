"""The log of one model's children: what may be kept of their output, in a file, and the last lines in memory."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

from router.backends.log_file import LogFile
from router.backends.memory_lines import LoadLines, plain
from router.worker import Post

MAX_FILE_BYTES = 5 * 1024 * 1024  # of the current file and of its one predecessor
MAX_LINE_BYTES = 8 * 1024
RING_LINES = 200
_MAX_NAME = 200  # file systems allow 255 bytes
_REDACTED = b"[redacted]"
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# Tails end up in terminals, pages and error messages: no control character may forge a line there.
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

# At the verbosities that a configuration may ask for these lines alone quote what was asked or answered (llama.cpp
# b11434: `ex_wrapper` and `update_slots`, `normalize_anthropic_billing_header`, `handle_media`,
# `llama_grammar_parser::parse`). Clients get the first of them whole.
_QUOTING = re.compile(
    r"(got (?:another )?exception: |anthropic string not as expected: |downloading image from |error parsing grammar: )"
    r".+",
    re.DOTALL,
)
_LEFT_OUT = r"\1[left out, as it may quote a request]"
# The last of them goes on with the whole grammar, up to the next line of the log's own form.
_BEFORE_GRAMMAR = "error parsing grammar: "
_OWN_FORM = re.compile(r"\d+\.\d\d\.\d{3}\.\d{3} [A-Z] |.*failed to parse grammar$")
_LONGEST_GRAMMAR = 10_000  # lines; of a llama.cpp whose log has another form the rest is shown


def log_file_name(model: str, number: int = 0) -> str:
    """A safe file name for an alias; different aliases have different names, and so have children beside each other.

    Percent-encoded; beyond 200 characters the end is replaced by a digest. (On a file system that ignores case,
    aliases that differ in case alone share a file.)

    Args:
        number: of the child among those of its model that live, from 0: the second one's is `<alias>+2.log`.
    """
    # `quote` leaves letters, digits and _.-~ alone, and encodes its own escape character.
    name = quote(model, safe="")
    if len(name) > _MAX_NAME:
        name = f"{name[:150]}-{sha256(model.encode()).hexdigest()}"
    return f"{name}.log" if number == 0 else f"{name}+{number + 1}.log"  # an alias's own + is encoded


class ChildLog:
    """Takes a child's output as it comes, in chunks. Never raises and never blocks.

    Args:
        path, post: see `LogFile`.
        secrets: strings that are blotted out of every line; `redact` adds to them.

    Attributes:
        load: what its lines tell of the load.
    """

    def __init__(
        self,
        path: Path,
        *,
        post: Post,
        secrets: Sequence[str] = (),
        max_bytes: int = MAX_FILE_BYTES,
        ring_lines: int = RING_LINES,
    ) -> None:
        self.path = path
        self._secrets: tuple[bytes, ...] = ()
        # Kept of an over-long line, so that a secret at the place of the cut is still seen whole.
        self._margin = 0
        for secret in secrets:
            self.redact(secret)
        self._file = LogFile(path, max_bytes=max_bytes, post=post)
        self._ring: deque[str] = deque(maxlen=ring_lines)
        self._partial = bytearray()
        self._cut = 0  # bytes dropped from the line that is coming in
        self._quoted = 0  # lines of a grammar that are still left out, at most
        self.load = LoadLines()

    def redact(self, secret: str) -> None:
        """Blot this string out of every line from now on."""
        if secret:
            self._secrets += (secret.encode(),)
            self._margin = max(map(len, self._secrets))

    def feed(self, data: bytes) -> None:
        """The next chunk of output."""
        *lines, rest = data.split(b"\n")
        out: list[str] = []
        for line in lines:
            self._collect(line)
            out += self._take()
        self._collect(rest)
        self._keep(out)

    def note(self, text: str) -> None:
        """A line of our own, marked as such and dated."""
        self._file.write(f"--- {datetime.now(UTC):%Y-%m-%d %H:%M:%SZ} {text}\n")

    def start_over(self) -> None:
        """Forget the lines in memory: what follows is another process."""
        self._ring.clear()
        self._quoted = 0
        self.load = LoadLines()

    def lines(self) -> tuple[str, ...]:
        """The child's last lines, oldest first, the one that is coming in included."""
        if not self._partial or self._quoted:
            return tuple(self._ring)
        return (*self._ring, _QUOTING.sub(_LEFT_OUT, self._clean()))

    def tail(self, lines: int = 20) -> str:
        """The last lines as one text."""
        return "\n".join(self.lines()[-lines:]) if lines > 0 else ""

    def close(self) -> None:
        """End an unfinished line and close the file; the tail stays."""
        if self._partial:
            self._keep(self._take())
        self._file.close()

    def _keep(self, lines: Sequence[str]) -> None:
        if lines:
            self._file.write("".join(f"{line}\n" for line in lines))

    def _collect(self, piece: bytes) -> None:
        room = MAX_LINE_BYTES + self._margin - len(self._partial)
        self._partial += piece[:room]
        self._cut += max(0, len(piece) - room)

    def _take(self) -> tuple[str, ...]:
        """The line that is complete now, if it is to be kept; it is in the ring as well."""
        said = self._clean()
        self._partial.clear()
        self._cut = 0
        # JSON spells out what was taken from the bytes.
        line = _CONTROL.sub("", plain(said))
        if self._is_quoted(line):
            return ()
        self.load.read(said)
        line = _QUOTING.sub(_LEFT_OUT, line)
        self._ring.append(line)
        return (line,)

    def _is_quoted(self, line: str) -> bool:
        """Whether this is a line of a grammar, which stands below the one that refuses it."""
        if self._quoted and not _OWN_FORM.match(line):
            self._quoted -= 1
            return True
        self._quoted = _LONGEST_GRAMMAR if _BEFORE_GRAMMAR in line else 0
        return False

    def _clean(self) -> str:
        line = bytes(self._partial)
        for secret in self._secrets:
            line = line.replace(secret, _REDACTED)
        keep = min(MAX_LINE_BYTES, len(line) - (self._margin if self._cut else 0))
        dropped = len(line) - keep + self._cut
        text = _CONTROL.sub("", _ANSI.sub("", line[:keep].decode("utf-8", "replace")))
        return f"{text} … [{dropped} bytes cut]" if dropped else text
