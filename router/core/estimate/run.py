"""What llama-server's flags make of a model: context, slots, batch, cache types, devices.

Defaults and rounding are those of llama.cpp b11434: `common/arg.cpp`, `common/common.h`, `tools/server/server.cpp`,
and the constructor of `llama_context`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Bytes and elements of one block of a cache type (`ggml-common.h`); the names that `-ctk` and `-ctv` take.
CACHE_TYPES: Mapping[str, tuple[int, int]] = {
    "f32": (4, 1),
    "f16": (2, 1),
    "bf16": (2, 1),
    "q8_0": (34, 32),
    "q4_0": (18, 32),
    "q4_1": (20, 32),
    "iq4_nl": (18, 32),
    "q5_0": (22, 32),
    "q5_1": (24, 32),
}
MOST_CHECKPOINTS = 32  # of each slot, where nothing is said
_AUTO_SLOTS = 4
_CTX_PAD = 256
_MOST_LAYERS = 512  # llama.cpp's own LLAMA_MAX_LAYERS
_UNMAPPED = frozenset({"none", "mlock", "dio"})
_TRUE = frozenset({"on", "1", "true", "enabled"})
_FALSE = frozenset({"off", "0", "false", "disabled"})


@dataclass(frozen=True, slots=True)
class Run:
    """How a model is run.

    Attributes:
        ctx: tokens over all slots, 0 = as trained, for each slot (see `common_params_fit_impl`).
        slots: parallel sequences; `unified` if they share one pool of cells.
        batch, ubatch: tokens handed in at once, and computed at once.
        type_k, type_v: types of the cache.
        flash: flash attention; `auto` counts as on, as every backend but the oldest has it.
        swa_full: windowed layers keep the whole context.
        gpu_layers: layers on GPUs, None = all that there are.
        offload_kv: keys and values live where their layer does.
        overrides: (pattern, buffer type) of tensors that are kept elsewhere.
        embedding: it is asked for embeddings.
        mmap: the file is mapped and not read.
        repack: weights are rearranged for the CPU's vector units.
        draft: tokens that are guessed ahead.
        checkpoints: of the context, per slot; None where nothing is said.
    """

    ctx: int = 0
    slots: int = _AUTO_SLOTS
    unified: bool = False
    batch: int = 2048
    ubatch: int = 512
    type_k: str = "f16"
    type_v: str = "f16"
    flash: bool = True
    swa_full: bool = False
    gpu_layers: int | None = None
    offload_kv: bool = True
    overrides: tuple[tuple[str, str], ...] = ()
    embedding: bool = False
    pooling: int | None = None
    mmap: bool = True
    repack: bool = True
    draft: int = 0
    checkpoints: int | None = None

    def cells(self, train_ctx: int) -> tuple[int, int]:
        """(cells of one stream, streams) of the cache. Source: `llama_context::llama_context`."""
        total = _pad(self.ctx or self.full_ctx(train_ctx))
        if self.unified:
            return total, 1
        return _pad(total // self.slots), self.slots

    def full_ctx(self, train_ctx: int) -> int:
        """Tokens over all slots, if each is to have all that the model was trained for."""
        return train_ctx if self.unified else train_ctx * self.slots


_POOLING = {"none": 0, "mean": 1, "cls": 2, "last": 3, "rank": 4}


def read_run(flags: Sequence[str], *, slots: int, env: Mapping[str, str] | None = None) -> Run:
    """The run that these flags ask for.

    Args:
        slots: passed as `-np` unless the flags say so themselves.
        env: the child's own environment: llama-server reads most settings from `LLAMA_ARG_…` too.
    """
    said = Flags(flags, env or {})
    asked = said.number("-np", "--parallel", env="N_PARALLEL", default=slots)
    auto = asked < 1
    embedding = said.is_set("--embedding", "--embeddings", "--rerank", "--reranking")
    batch = said.number("-b", "--batch-size", env="BATCH", default=2048)
    ubatch = min(batch, said.number("-ub", "--ubatch-size", env="UBATCH", default=512) or batch)
    type_v = _cache_type(said.text("-ctv", "--cache-type-v", env="CACHE_TYPE_V"))
    kept = said.number("-ctxcp", "--ctx-checkpoints", "--swa-checkpoints", env="CTX_CHECKPOINTS", default=-1)
    flash = said.text("-fa", "--flash-attn", env="FLASH_ATTN") not in _FALSE
    return Run(
        ctx=max(0, said.number("-c", "--ctx-size", env="CTX_SIZE", default=0)),
        slots=_AUTO_SLOTS if auto else asked,
        unified=auto
        or (said.is_set("-kvu", "--kv-unified", env="KV_UNIFIED") and not said.is_set("-no-kvu", "--no-kv-unified")),
        batch=ubatch if embedding else batch,
        ubatch=ubatch,
        type_k=_cache_type(said.text("-ctk", "--cache-type-k", env="CACHE_TYPE_K")),
        type_v=type_v,
        flash=flash or CACHE_TYPES[type_v][1] > 1,
        swa_full=said.is_set("--swa-full", env="SWA_FULL"),
        gpu_layers=_gpu_layers(said),
        offload_kv=not said.is_set("-nkvo", "--no-kv-offload"),
        overrides=_overrides(said),
        embedding=embedding,
        pooling=_POOLING.get(said.text("--pooling", env="POOLING") or ""),
        mmap=said.text("-lm", "--load-mode", env="LOAD_MODE") not in _UNMAPPED and not said.is_set("--no-mmap"),
        repack=not said.is_set("-nr", "--no-repack"),
        checkpoints=None if kept < 0 else kept,
    )


# Flags that change what a model answers, how fast, or what it logs, but not what it takes; each with a value.
_WEIGHTLESS = frozenset((
    "--prio", "--prio-batch", "--poll", "-C", "--cpu-mask", "-Cr", "--cpu-range", "-s", "--seed", "--temp",
    "--temperature", "--top-k", "--top-p", "--min-p", "--repeat-penalty", "--presence-penalty",
    "--frequency-penalty", "-n", "--predict", "--n-predict", "--chat-template", "--chat-template-file",
    "--chat-template-kwargs", "--reasoning-format", "--reasoning-budget", "-a", "--alias", "-lv", "--verbosity",
    "--log-file", "--log-verbosity", "-to", "--timeout", "--api-prefix",
))  # fmt: skip


def memory_flags(flags: Sequence[str]) -> tuple[str, ...]:
    """The flags without those that are known to take no memory: what is not known counts."""
    kept: list[str] = []
    skip = False
    for flag in flags:
        if skip:
            skip = False
        elif _name(flag) in _WEIGHTLESS:
            skip = "=" not in flag
        else:
            kept.append(flag)
    return tuple(kept)


class Flags:
    """A command line as llama-server reads it: of several occurrences the last one counts; `_` reads as `-`."""

    def __init__(self, flags: Sequence[str], env: Mapping[str, str]) -> None:
        self._env = env
        self._flags = [(_name(flag), flag) for flag in flags]

    def text(self, *names: str, env: str = "") -> str | None:
        value = self._env.get(f"LLAMA_ARG_{env}") if env else None
        for position, (name, flag) in enumerate(self._flags):
            if name not in names:
                continue
            _, equals, attached = flag.partition("=")
            if equals and flag.startswith("--"):
                value = attached
            elif position + 1 < len(self._flags):
                value = self._flags[position + 1][1]
        return None if value is None else value.strip()

    def every(self, *names: str) -> tuple[str, ...]:
        """The values of all occurrences."""
        found = []
        for position, (name, flag) in enumerate(self._flags):
            _, equals, attached = flag.partition("=")
            if name in names and (equals or position + 1 < len(self._flags)):
                found.append(attached if equals else self._flags[position + 1][1])
        return tuple(found)

    def number(self, *names: str, env: str = "", default: int) -> int:
        """Its value as a whole number; what is none stays unread, as llama-server will refuse it."""
        value = self.text(*names, env=env)
        return int(value) if value is not None and re.fullmatch(r"-?\d{1,9}", value) else default

    def is_set(self, *names: str, env: str = "") -> bool:
        if env and self._env.get(f"LLAMA_ARG_{env}", "").lower() in _TRUE:
            return True
        return any(name in names for name, _ in self._flags)


def _name(flag: str) -> str:
    name = flag.partition("=")[0]
    return name.replace("_", "-") if name.startswith("--") else name


def _gpu_layers(said: Flags) -> int | None:
    """None for `auto`, `all` and where nothing is said. `-dev none` leaves no GPU."""
    if said.text("-dev", "--device", env="DEVICE") == "none":
        return 0
    value = said.text("-ngl", "--gpu-layers", "--n-gpu-layers", env="N_GPU_LAYERS")
    return int(value) if value is not None and re.fullmatch(r"\d{1,9}", value) else None


def _cache_type(value: str | None) -> str:
    return value if value is not None and value in CACHE_TYPES else "f16"


def _overrides(said: Flags) -> tuple[tuple[str, str], ...]:
    """`-ot`, and the flags that stand for one: `--cpu-moe`, `--n-cpu-moe N`. Source: `common/arg.cpp`."""
    # `-ot=x=y` is no form that llama-server knows: the value is always the next word.
    entries = [entry for value in said.every("-ot", "--override-tensor") for entry in value.split(",")]
    found = [(pattern, buffer) for pattern, equals, buffer in (entry.rpartition("=") for entry in entries) if equals]
    experts = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"
    if said.is_set("-cmoe", "--cpu-moe"):
        found.append((experts, "CPU"))
    layers = min(_MOST_LAYERS, said.number("-ncmoe", "--n-cpu-moe", default=0))
    if layers > 0:  # one pattern for all: each costs its time at every tensor
        found.append((rf"blk\.({'|'.join(map(str, range(layers)))}){experts}", "CPU"))
    return tuple(found)


def _pad(count: int) -> int:
    return -(-count // _CTX_PAD) * _CTX_PAD
