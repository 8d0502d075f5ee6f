"""A real router whose models are fake llama-servers, and a configuration that changes under it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.fakes.fake_binary import make_fake_binary
from tests.support.router import RunningRouter, router


def puppet(folder: Path, *flags: str, **keys: Any) -> dict[str, Any]:
    """The entry of a model whose llama-server takes these flags."""
    return {"model_path": str(folder / "puppet.gguf"), "flags": [*flags], **keys}


@contextmanager
def puppets(folder: Path, models: Mapping[str, Sequence[str]], **options: Any) -> Iterator[RunningRouter]:
    """A router with these models and the flags of each.

    Args:
        options: see `tests.support.router.router`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "puppet.gguf").write_bytes(b"GGUF")
    env = {"LLAMA_SERVER_PATH": str(make_fake_binary(folder)), **options.pop("env", {})}
    configured = {name: puppet(folder, *flags) for name, flags in models.items()}
    with router(folder, configured, env=env, **options) as running:
        yield running


def configuration(running: RunningRouter) -> dict[str, Any]:
    """The file as it is now; change it, and hand it to `configure`."""
    found: dict[str, Any] = json.loads((running.folder / "config.json").read_text(encoding="utf-8"))
    return found


def configure(running: RunningRouter, document: Mapping[str, Any] | str) -> None:
    """Write the file anew; a text is written as it is."""
    text = document if isinstance(document, str) else json.dumps(document)
    (running.folder / "config.json").write_text(text, encoding="utf-8")


def reload(running: RunningRouter, document: Mapping[str, Any] | str | None = None) -> httpx.Response:
    """Write the file anew, if there is something to write, and have it read."""
    if document is not None:
        configure(running, document)
    return running.client.post("/v1/reload")
