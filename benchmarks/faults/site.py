"""A running router with fake children for the faults to happen to, and clients that know what they should be told."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import httpx

from scripts.make_demo_models import ModelSpec, write_model
from tests.fakes.fake_binary import make_fake_binary
from tests.support.control import Control, control
from tests.support.router import RUN, RunningRouter, router
from tests.support.wire import messages

_PATH = "/v1/chat/completions"


class Ending(Enum):
    """What became of a request, as its client saw it."""

    WHOLE = "whole"
    BROKEN = "broken off amid its content, and said so"
    TRUNCATED = "less than all, or something else, passed off as complete"
    UNANSWERED = "broken before its first byte"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Site:
    """Attributes:
    control: tells the children what to do.
    """

    running: RunningRouter
    control: Control

    @property
    def port(self) -> int:
        return int(self.running.url.rpartition(":")[2])

    def statuses(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.running.client.get("/v1/models/status").json()["models"]
        return found


@contextlib.contextmanager
def site(
    folder: Path,
    models: Mapping[str, Sequence[str]],
    *,
    system: Mapping[str, Any] | None = None,
    plan: Mapping[str, Any] | None = None,
    program: Sequence[str] = RUN,
) -> Iterator[Site]:
    """A router with these models, by their flags.

    Args:
        plan: what each child is told before it loads.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = write_model(folder / "model.gguf", ModelSpec())
    with control(folder) as port:
        entries = {
            name: {"model_path": str(file), "flags": [*flags, "--control", str(port.path)]}
            for name, flags in models.items()
        }
        for name in models:
            port.plan(name, **(plan or {}))
        env = {"LLAMA_SERVER_PATH": str(make_fake_binary(folder))}
        limits = {"max_concurrent_models": len(models), **(system or {})}
        with router(folder, entries, system=limits, env=env, program=program) as running:
            yield Site(running, port)


async def statuses(client: httpx.AsyncClient) -> Mapping[str, Any]:
    found: Mapping[str, Any] = (await client.get("/v1/models/status")).json()["models"]
    return found


async def ask(port: int, model: str, *, tokens: int, stream: bool, text: str = "Hi") -> tuple[Ending, str]:
    """Ask the fake for so many of its words; returns what came of it, and the error's code where there was one."""
    body = {"model": model, "max_tokens": tokens, "stream": stream, "messages": [{"role": "user", "content": text}]}
    content = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = (
            f"POST {_PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        writer.write(head.encode() + content)
        raw = await _until_end(reader)
    finally:
        writer.close()
    return judge(raw, tokens=tokens, stream=stream)


async def _until_end(reader: asyncio.StreamReader) -> bytes:
    raw = b""
    with contextlib.suppress(ConnectionResetError):
        while data := await reader.read(65536):
            raw += data
    return raw


def judge(raw: bytes, *, tokens: int, stream: bool) -> tuple[Ending, str]:
    """What these bytes, which end with the connection, are to a client that asked for so many words."""
    if not raw:
        return Ending.UNANSWERED, ""
    answers = messages(raw)
    if not answers:
        return (Ending.BROKEN, "") if b"word0" in raw or b"data:" in raw else (Ending.UNANSWERED, "")
    (answer,) = answers
    if " 200 " not in answer.first_line:
        return Ending.REFUSED, str(json.loads(answer.body)["error"]["code"])
    said = _streamed(answer.body) if stream else _told(answer.body)
    whole = said == "".join(f"word{number} " for number in range(tokens))
    return (Ending.WHOLE if whole else Ending.TRUNCATED), ""


def _told(body: bytes) -> str:
    """The text of a document; none of it is here if this is an answer to something else."""
    try:
        return str(json.loads(body)["choices"][0]["message"]["content"])
    except (ValueError, KeyError):
        return ""


def _streamed(body: bytes) -> str:
    """The text of a stream; whatever is missing at its end is missing here."""
    text = ""
    for event in body.split(b"\n\n"):
        if event.startswith(b"data: {"):
            chunk = json.loads(event[6:])
            text += "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])
    return text if body.endswith(b"data: [DONE]\n\n") else f"{text}…"
