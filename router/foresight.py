"""What a model will take, read from its files and its flags before it has ever been loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from router.companions import Companions, size_of
from router.config import ModelConfig
from router.core.estimate import (
    MOST_CHECKPOINTS,
    Projection,
    Run,
    Shape,
    checkpoint,
    estimate,
    project,
    read_pin,
    read_run,
    read_shape,
)
from router.core.estimate.projection import GPU_CONTEXT_BYTES
from router.core.estimate.run import Flags
from router.core.learning import FORMULA
from router.core.types import Need
from router.devices.gguf import GgufError, GgufHeader, read_header

# With one of these an operator has his own idea of the fit, or of the context.
_OWN_FIT = (
    (("-fit", "--fit"), "FIT"),
    (("-fitt", "--fit-target"), "FIT_TARGET"),
    (("-fitc", "--fit-ctx"), "FIT_CTX"),
    (("--kv-unified-per-slot",), "KV_UNIFIED_PER_SLOT"),
)
_SHORTEST_CTX = 4096  # `--fit-ctx`
# What the context checkpoints of a child may take in RAM together, as far as a few of each slot are within that:
# llama-server's own number, 32 a slot, are 10 GiB of a Gemma 3 12B. A prompt makes three. With these, or with six, it
# was seen to go on from them after its last message was changed; with one, two, four or five it read all anew.
_CHECKPOINT_BYTES = 512 * 1024**2
_FEWEST_CHECKPOINTS, _ENOUGH_CHECKPOINTS = 3, 6


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
        whole: flags for a load that fits whole (see `_fit_off`); empty where llama.cpp's own fit has to stay on.
        contexts: tokens over all slots, at least and at most, where the flags leave them open.
        checkpoints: of the context, for each slot, if they are to be fewer than llama-server's own number.
        checkpoint_bytes: of RAM, for one of each slot, where their number is ours to say.
    """

    need: Need
    file_bytes: int
    fingerprint: str = ""
    parts: Projection | None = None
    whole: tuple[str, ...] = ()
    contexts: tuple[int, int] | None = None
    checkpoints: int | None = None
    checkpoint_bytes: int = 0
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
    companions = Companions.named(Flags(config.flags, config.env), folder)
    file_bytes = sum(map(size_of, (*files, *companions.files)))
    run = read_run(config.flags, slots=slots, env=config.env)
    pin = read_pin(config.flags, config.env)
    try:
        headers = [read_header(file) for file in files]
        _check_parts(files, headers)
        shape = _shape(files, headers)
        parts = _project(shape, headers, run, machine)
        further = [_project_draft(draft, run, machine) for draft in companions.drafts]
    except (GgufError, ValueError, ArithmeticError) as error:
        guess = estimate(file_bytes=file_bytes, multiplier=machine.multiplier, gpu_available=machine.gpu,
                         flags=config.flags, cache_ram=reserve)  # fmt: skip
        guess = replace(guess, each=GPU_CONTEXT_BYTES if guess.gpu else 0, pin=pin)
        return Foresight(guess, file_bytes, reason=str(error))
    gpu, host = companions.beside(gpu=parts.gpu.total > 0)
    gpu += parts.gpu.total + sum(draft.gpu.buffers for draft in further)  # in the same process
    host += parts.host.total + sum(draft.host.buffers for draft in further)
    whole, contexts = _fit_off(config, run, shape.train_ctx), _contexts(config, run, shape.train_ctx)
    spare = _spare(parts, shape, headers, replace(run, ctx=contexts[0]), machine) if contexts else 0
    checkpoint_bytes = checkpoint(shape, run) * run.slots
    checkpoints, growth = _checkpoints(checkpoint_bytes, run)
    # Large images make a projector's buffer grow: nobody can tell that from a prompt cache.
    base = 0 if companions.projectors else host
    need = Need(gpu, host, max(0, reserve) + growth, FORMULA, parts.each, spare, pin, base)
    fingerprint = _fingerprint(headers, companions.files)
    ours = checkpoint_bytes if run.checkpoints is None else 0
    return Foresight(need, file_bytes, fingerprint, parts, whole, contexts, checkpoints, ours)


def _fit_off(config: ModelConfig, run: Run, train_ctx: int) -> tuple[str, ...]:
    """Flags that keep llama.cpp from cutting what fits whole by our books.

    It would cut as soon as less than a margin of 1 GiB were left. But with its fit off, a context whose length is left
    open is shared out among the slots, where it is all for each with the fit on: so it has to be told.
    """
    said = Flags(config.flags, config.env)
    if any(said.text(*names, env=env) for names, env in _OWN_FIT):
        return ()
    if run.ctx:
        return ("--fit", "off")
    full = run.full_ctx(train_ctx)
    if said.text("-c", "--ctx-size", env="CTX_SIZE") is not None:
        return ("--fit", "off") if full == train_ctx else ()
    return ("--fit", "off", "-c", str(full)) if full else ()


def _checkpoints(each: int, run: Run) -> tuple[int | None, int]:
    """How many a slot is to be given, None for as many as it gets anyway; and the bytes of RAM that they all take.

    Args:
        each: bytes of one of each slot.
    """
    if run.checkpoints is not None or not each:
        return None, each * (run.checkpoints or 0)
    within = _CHECKPOINT_BYTES // each
    count = min(MOST_CHECKPOINTS, within) if within >= _ENOUGH_CHECKPOINTS else _FEWEST_CHECKPOINTS
    return None if count == MOST_CHECKPOINTS else count, each * count


def _contexts(config: ModelConfig, run: Run, train_ctx: int) -> tuple[int, int] | None:
    """The shortest context that llama.cpp's fit goes down to, and the whole one; None where the flags say how long."""
    said = Flags(config.flags, config.env)
    if said.text("-c", "--ctx-size", env="CTX_SIZE") is not None or train_ctx <= _SHORTEST_CTX:
        return None
    return run.full_ctx(_SHORTEST_CTX), run.full_ctx(train_ctx)


def _spare(parts: Projection, shape: Shape, headers: Sequence[GgufHeader], shortest: Run, machine: Machine) -> int:
    """What the shortest context would save, on GPUs or else in RAM."""
    least = _project(shape, headers, shortest, machine)
    return max(0, parts.gpu.total - least.gpu.total if parts.gpu.total else parts.host.total - least.host.total)


def _check_parts(files: Sequence[Path], headers: Sequence[GgufHeader]) -> None:
    """What llama.cpp checks, too: that the parts of a split model are those that their names say."""
    for number, (file, header) in enumerate(zip(files, headers, strict=True)):
        if (header.split_no, header.split_count) != (number, len(files)):
            told = f"split.no {header.split_no}, split.count {header.split_count}"
            raise GgufError(f"{file}: it says {told}, and its place is {number} of {len(files)}")


def _shape(files: Sequence[Path], headers: Sequence[GgufHeader]) -> Shape:
    try:
        return read_shape(headers[0].metadata, [tensor for header in headers for tensor in header.tensors])
    except ValueError as error:
        raise ValueError(f"{files[0]}: {error}") from None


def _project(shape: Shape, headers: Sequence[GgufHeader], run: Run, machine: Machine) -> Projection:
    tensors = [header.tensors for header in headers]
    return project(tensors, shape, run, gpu=machine.gpu, repacked=machine.repacked)


def _project_draft(draft: Path, run: Run, machine: Machine) -> Projection:
    headers = [read_header(draft)]
    return _project(_shape([draft], headers), headers, run, machine)


def _fingerprint(headers: Sequence[GgufHeader], beside: Sequence[Path]) -> str:
    digest = hashlib.sha256(repr([size_of(file) for file in beside]).encode())
    for header in headers:
        digest.update(repr((header.file_size, sorted(header.metadata.items()), header.tensors)).encode())
    return digest.hexdigest()
