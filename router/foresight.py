"""What a model will take, read from its files and its flags before it has ever been loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from router.config import ModelConfig, flag_value
from router.core.estimate import Projection, Run, estimate, project, read_run, read_shape
from router.core.learning import FORMULA
from router.core.types import Need
from router.devices.gguf import GgufError, GgufHeader, read_header

# Files that are loaded beside the model itself: their bytes are taken as they are.
_COMPANIONS = (("-mm", "--mmproj"), ("--lora",))
_DRAFT = ("-md", "--model-draft", "--spec-draft-model")


@dataclass(frozen=True, slots=True)
class Machine:
    """What this machine adds to the arithmetic.

    Attributes:
        gpu: whether it has one.
        repacked: tensor types that llama.cpp rearranges for its CPU.
        multiplier: file size times this = memory, where a header cannot be read.
    """

    gpu: bool
    repacked: frozenset[str]
    multiplier: float


@dataclass(frozen=True, slots=True)
class Foresight:
    """What is expected of one model.

    Attributes:
        fingerprint: tells models apart that take different amounts, wherever their files lie and whenever they were
            written; empty where a header could not be read.
        parts: the bytes by place and kind; None when they were guessed from the files' sizes.
        reason: why they were, naming the file and what is wrong with it.
    """

    need: Need
    file_bytes: int
    fingerprint: str = ""
    parts: Projection | None = None
    reason: str = ""


def foresee(
    config: ModelConfig, files: Sequence[Path], *, slots: int, folder: Path, reserve: int, machine: Machine
) -> Foresight:
    """Read the headers of a model's files. Blocking: up to some tens of milliseconds for a large vocabulary.

    Args:
        files: the model itself, every part of it.
        folder: what relative paths in flags are relative to.
        reserve: bytes of RAM that its prompt cache may grow into.
    """
    companions = _values(config, folder, *_COMPANIONS)
    drafts = _values(config, folder, _DRAFT)
    beside = sum(map(_size, companions))
    file_bytes = sum(map(_size, (*files, *drafts))) + beside
    run = read_run(config.flags, slots=slots, env=config.env)
    try:
        headers = [read_header(file) for file in files]
        parts = _project(files, headers, run, machine)
        further = [_project([draft], [read_header(draft)], run, machine) for draft in drafts]
    except (GgufError, ValueError) as error:
        guess = estimate(file_bytes=file_bytes, multiplier=machine.multiplier, gpu_available=machine.gpu,
                         flags=config.flags, cache_ram=reserve)  # fmt: skip
        return Foresight(guess, file_bytes, reason=str(error))
    gpu, host = parts.gpu.total, parts.host.total
    for draft in further:  # in the same process
        gpu += draft.gpu.buffers
        host += draft.host.buffers
    if gpu:
        gpu += beside
    else:
        host += beside
    return Foresight(Need(gpu, host, max(0, reserve), FORMULA), file_bytes, _fingerprint(headers), parts)


def _project(files: Sequence[Path], headers: Sequence[GgufHeader], run: Run, machine: Machine) -> Projection:
    tensors = [header.tensors for header in headers]
    try:
        shape = read_shape(headers[0].metadata, [tensor for part in tensors for tensor in part])
    except ValueError as error:
        raise ValueError(f"{files[0]}: {error}") from None
    return project(tensors, shape, run, gpus=int(machine.gpu), repacked=machine.repacked)


def _fingerprint(headers: Sequence[GgufHeader]) -> str:
    digest = hashlib.sha256()
    for header in headers:
        digest.update(repr((header.file_size, sorted(header.metadata.items()), header.tensors)).encode())
    return digest.hexdigest()


def _values(config: ModelConfig, folder: Path, *names: tuple[str, ...]) -> list[Path]:
    values = [flag_value(config.flags, *alternatives) for alternatives in names]
    return [folder / value for value in values if value is not None]


def _size(file: Path) -> int:
    """Bytes of a file; one that is gone counts nothing here and fails at its load, with its name."""
    try:
        return file.stat().st_size
    except OSError:
        return 0
