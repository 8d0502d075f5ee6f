"""The GGUF files that tests serve, made once per run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.make_demo_models import ModelSpec, write_model

# One thread: two of them on a busy machine with two cores crawl.
FLAGS = ("-t", "1", "-c", "2048", "--cache-ram", "16")

# With these a model that has no idea of tools calls them where it has to.
TOOLS = ("--jinja", "--chat-template-file", str(Path(__file__).with_name("tools.jinja")))


@dataclass(frozen=True)
class Models:
    """Attributes:
    chat: 250 KB, random letters, never ends by itself.
    chatter: speaks in sentences and ends.
    slow: some milliseconds a token, so that a stream can be caught at work.
    embed: an embedding model.
    corrupt: half of a model.
    """

    chat: Path
    chatter: Path
    slow: Path
    embed: Path
    corrupt: Path

    def entry(self, kind: str, *flags: str, **fields: Any) -> Mapping[str, Any]:
        """A `models.<alias>` of the configuration."""
        extra = ("--embedding",) if kind == "embed" else ()
        return {"model_path": str(getattr(self, kind)), "flags": [*FLAGS, *extra, *flags], **fields}


def make_models(folder: Path) -> Models:
    chat = write_model(folder / "chat.gguf", ModelSpec(name="chat"))
    corrupt = folder / "corrupt.gguf"
    corrupt.write_bytes(chat.read_bytes()[: chat.stat().st_size // 2])
    return Models(
        chat=chat,
        chatter=write_model(folder / "chatter.gguf", ModelSpec(name="chatter", style="chatter", embd=128)),
        slow=write_model(folder / "slow.gguf", ModelSpec(name="slow", layers=8, embd=512, ff=2048, heads=8)),
        embed=write_model(folder / "embed.gguf", ModelSpec(name="embed", pooling="mean")),
        corrupt=corrupt,
    )
