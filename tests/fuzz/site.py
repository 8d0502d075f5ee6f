"""A router in a process of its own that is there to be fuzzed, with the fake llama-server behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.fakes.fake_binary import make_fake_binary
from tests.fuzz.exchanges import Target
from tests.support.router import RunningRouter, router

CHAT, EMBED = "chat", "embed"
KEY = "fuzz-key"


@contextmanager
def fuzzed_router(folder: Path, models: Mapping[str, Any] | None = None) -> Iterator[RunningRouter]:
    """The models `chat` and `embed` are loaded. Without `models` fakes stand in for them."""
    fakes: dict[str, str] = {}
    if models is None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.gguf").write_bytes(b"GGUF")
        fakes = {"LLAMA_SERVER_PATH": str(make_fake_binary(folder))}
        models = {name: {"model_path": str(folder / "model.gguf")} for name in (CHAT, EMBED, "org/other:q4")}
    with router(folder, models, system={"max_concurrent_models": 3}, api_key=KEY, env=fakes) as running:
        for name in (CHAT, EMBED):
            running.client.get("/props", params={"model": name}).raise_for_status()
        yield running


def target_of(running: RunningRouter) -> Target:
    return Target(urlsplit(running.url).port or 80, running.api_key)
