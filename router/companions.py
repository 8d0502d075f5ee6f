"""The files that flags name beside the model itself: its projector, its adapters, its draft model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from router.core.estimate import projector_compute
from router.core.estimate.run import Flags
from router.devices.gguf import GgufError, read_header

_PROJECTOR = ("-mm", "--mmproj")
_DRAFT = ("-md", "--model-draft", "--spec-draft-model")
# Any number of each, also as a list, and with a scale.
_ADAPTERS = ("--lora", "--lora-scaled", "--control-vector", "--control-vector-scaled")
_SCALE = re.compile(r":[-+.\d]+$")


@dataclass(frozen=True, slots=True)
class Companions:
    """What is loaded into the same process.

    Attributes:
        offloaded: the projector goes to a GPU, if its model does.
    """

    projectors: tuple[Path, ...]
    adapters: tuple[Path, ...]
    drafts: tuple[Path, ...]
    offloaded: bool

    @classmethod
    def named(cls, said: Flags, folder: Path) -> Companions:
        """Those that these flags name; relative paths are relative to `folder`."""
        projector = said.text(*_PROJECTOR, env="MMPROJ")
        draft = said.text(*_DRAFT, env="SPEC_DRAFT_MODEL")
        listed = [_SCALE.sub("", name) for value in said.every(*_ADAPTERS) for name in value.split(",")]
        return cls(
            projectors=(folder / projector,) if projector else (),
            adapters=tuple(folder / name for name in dict.fromkeys(listed) if name),
            drafts=(folder / draft,) if draft else (),
            offloaded=not said.is_set("--no-mmproj-offload"),
        )

    @property
    def files(self) -> tuple[Path, ...]:
        return (*self.projectors, *self.adapters, *self.drafts)

    def beside(self, *, gpu: bool) -> tuple[int, int]:
        """Bytes on GPUs and in RAM, draft models left out, beside a model that is on a GPU or is not."""
        images = sum(size_of(file) + _compute(file) for file in self.projectors)
        adapters = sum(map(size_of, self.adapters))
        on_gpu = (images if self.offloaded else 0) + adapters if gpu else 0
        return on_gpu, images + adapters - on_gpu


def size_of(file: Path) -> int:
    """Bytes of a file; one that is gone counts nothing here and fails at its load, with its name."""
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _compute(projector: Path) -> int:
    try:
        return projector_compute(read_header(projector).metadata)
    except GgufError:  # its load will say so
        return 0
