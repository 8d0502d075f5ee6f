"""What the flags of the embedded llama.cpp do to its parameters, where that is more than storing a value.

Meanings and checks follow llama.cpp's `common/arg.cpp`; the fields are those of xllamacpp's `CommonParams`.
"""

from __future__ import annotations

import json
import os
from operator import attrgetter
from typing import Any

import xllamacpp

from router.backends.embedded_flags import (
    FALSE_WORDS,
    TRUE_WORDS,
    Params,
    Reader,
    Setter,
    comma_separated,
    file_text,
    integer,
    into,
    number,
    words,
)

KV_CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
FFN_EXPERTS = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"
UINT32_MAX = 2**32 - 1
AUTO_WORDS = ("auto", "-1")
EVERYTHING = 2**31 - 1  # INT_MAX, as llama-server sets it for -v
WHOLE_CONTEXT = -1  # UINT32_MAX in llama.cpp: `-c 0` means the model's full context, which --fit must not cut

FlashAttention = xllamacpp.llama_flash_attn_type
LoadMode = xllamacpp.llama_load_mode
Pooling = xllamacpp.llama_pooling_type

flash_attention = words(
    dict.fromkeys(TRUE_WORDS, FlashAttention.LLAMA_FLASH_ATTN_TYPE_ENABLED)
    | dict.fromkeys(FALSE_WORDS, FlashAttention.LLAMA_FLASH_ATTN_TYPE_DISABLED)
    | dict.fromkeys(AUTO_WORDS, FlashAttention.LLAMA_FLASH_ATTN_TYPE_AUTO)
)
cache_type = words({name: getattr(xllamacpp.ggml_type, f"GGML_TYPE_{name.upper()}") for name in KV_CACHE_TYPES})
gpu_layers = words({"auto": -1, "all": -2}, integer)
on_off_auto = words(dict.fromkeys(TRUE_WORDS, 1) | dict.fromkeys(FALSE_WORDS, 0) | dict.fromkeys(AUTO_WORDS, -1))
load_mode = words(
    {
        "auto": LoadMode.LLAMA_LOAD_MODE_AUTO,
        "none": LoadMode.LLAMA_LOAD_MODE_NONE,
        "mmap": LoadMode.LLAMA_LOAD_MODE_MMAP,
        "mlock": LoadMode.LLAMA_LOAD_MODE_MLOCK,
        "mmap+mlock": LoadMode.LLAMA_LOAD_MODE_MMAP_MLOCK,
        "dio": LoadMode.LLAMA_LOAD_MODE_DIRECT_IO,
    }
)


def members(enum: Any, prefix: str, *names: str) -> Reader:
    """The enum members named `prefix` + NAME, by their lower-case names."""
    return words({name: getattr(enum, prefix + name.upper().replace("-", "_")) for name in names})


def threads(raw: str) -> int:
    count = integer(raw)
    return count if count > 0 else os.cpu_count() or 1


def context(params: Params, value: int) -> None:
    params.n_ctx = value
    if value == 0:
        params.fit_params_min_ctx = WHOLE_CONTEXT


def parallel(raw: str) -> int:
    slots = integer(raw)
    if slots == 0:
        raise ValueError("expected a number of slots, or -1 for auto, not 0")
    return slots


def append(path: str) -> Setter:
    """Add the values to a list; xllamacpp hands out copies, so the list is put back whole."""
    store = into(path)

    def add(params: Params, values: list[Any]) -> None:
        store(params, [*attrgetter(path)(params), *values])

    return add


def seed(raw: str) -> int:
    return integer(raw) & UINT32_MAX


def reciprocal(raw: str) -> float:
    factor = number(raw)
    if factor == 0:
        raise ValueError("expected a factor other than 0")
    return 1 / factor


def priority(raw: str) -> Any:
    level = integer(raw)
    if not -1 <= level <= 3:
        raise ValueError(f"expected -1, 0, 1, 2 or 3, not {level}")
    return xllamacpp.ggml_sched_priority(level)


def port(raw: str) -> int:
    value = integer(raw)
    if not 0 <= value <= 65535:
        raise ValueError(f"expected 0 to 65535, not {value}")
    return value


def hosts(raw: str) -> list[str]:
    found = comma_separated(raw)
    if not found:
        raise ValueError("expected at least one address")
    return found


def sleep_seconds(raw: str) -> int:
    seconds = integer(raw)
    if seconds == 0 or seconds < -1:
        raise ValueError(f"expected -1, or more than 0, not {seconds}")
    return seconds


def speculative_types(raw: str) -> list[Any]:
    prefix = "COMMON_SPECULATIVE_TYPE_"
    kinds = xllamacpp.common_speculative_type.__members__
    known = {name.removeprefix(prefix).lower().replace("_", "-"): kind for name, kind in kinds.items()}
    known.pop("count", None)
    return [words(known)(name) for name in comma_separated(raw)]


def aliases(params: Params, names: list[str]) -> None:
    params.model_alias = params.model_alias | set(names)


def api_key_file(raw: str) -> list[str]:
    return [line for line in file_text(raw).splitlines() if line and not line.startswith("#")]


def loras(raw: str) -> list[Any]:
    return [xllamacpp.CommonAdapterLoraInfo(path, 1.0) for path in comma_separated(raw)]


def scaled_loras(raw: str) -> list[Any]:
    found = []
    for item in comma_separated(raw):
        path, colon, scale = item.rpartition(":")
        if not colon:
            raise ValueError(f"expected FNAME:SCALE, not '{item}'")
        found.append(xllamacpp.CommonAdapterLoraInfo(path, number(scale)))
    return found


def fill(attribute: str, scale: int = 1, *, spread: bool = False) -> Setter:
    """Put the values at the head of a fixed-length list; with `spread` a single one stands for all places."""

    def store(params: Params, values: list[float]) -> None:
        places = list(getattr(params, attribute))
        if not 0 < len(values) < len(places):
            raise ValueError(f"expected 1 to {len(places) - 1} numbers, not {len(values)}")
        kind = type(places[0])
        head = [kind(value * scale) for value in values]
        rest = places[len(head) :] if spread else [kind(0)] * (len(places) - len(head))
        setattr(params, attribute, head * len(places) if spread and len(head) == 1 else head + rest)

    return store


def timeout(params: Params, seconds: int) -> None:
    params.timeout_read = params.timeout_write = seconds


def cors_origins(params: Params, origins: str) -> None:
    params.cors_origins = origins
    params.cors_origins_explicit = True


def verbose(params: Params, _: bool) -> None:
    params.verbosity = EVERYTHING


def rerank(params: Params, _: bool) -> None:
    params.embedding = True
    params.pooling_type = Pooling.LLAMA_POOLING_TYPE_RANK


def override_tensors(params: Params, value: str) -> None:
    before = params.tensor_buft_overrides
    params.tensor_buft_overrides = f"{before},{value}" if before else value


def experts_on_cpu(params: Params, layers: int) -> None:
    for layer in range(layers):
        override_tensors(params, rf"blk\.{layer}{FFN_EXPERTS}=CPU")


def template_kwargs(raw: str) -> dict[str, str]:
    try:
        parsed = json.loads(raw)
    except json.JSONDecodeError as error:
        raise ValueError(f"expected a JSON object: {error}") from None
    if not isinstance(parsed, dict):
        raise ValueError("expected a JSON object")  # noqa: TRY004 - a value that cannot be read, like the others
    return {key: json.dumps(value) for key, value in parsed.items()}


def add_template_kwargs(params: Params, more: dict[str, str]) -> None:
    params.default_template_kwargs = params.default_template_kwargs | more


def reasoning(params: Params, mode: int) -> None:
    params.enable_reasoning = mode
    if mode >= 0:
        add_template_kwargs(params, {"enable_thinking": "true" if mode else "false"})


def preserve_reasoning(params: Params, value: bool) -> None:
    add_template_kwargs(params, {"preserve_reasoning": "true" if value else "false"})
    params.preserve_reasoning_specified = True


def sampled(attribute: str, bit: Any = None) -> Setter:
    """A sampling default; the bit tells llama.cpp that it outranks what the model's metadata recommend."""

    def store(params: Params, value: Any) -> None:
        setattr(params.sampling, attribute, value)
        if bit is not None:
            params.sampling.user_sampling_config |= int(bit)

    return store


LOAD_MODES = {  # (memory-mapped, locked in RAM)
    (True, False): LoadMode.LLAMA_LOAD_MODE_MMAP,
    (True, True): LoadMode.LLAMA_LOAD_MODE_MMAP_MLOCK,
    (False, True): LoadMode.LLAMA_LOAD_MODE_MLOCK,
    (False, False): LoadMode.LLAMA_LOAD_MODE_NONE,
}


def mmap(params: Params, value: bool) -> None:
    """`--mmap`, `--no-mmap`: older llama.cpp's spelling of one half of `--load-mode`."""
    locked = params.load_mode in {LOAD_MODES[True, True], LOAD_MODES[False, True]}
    params.load_mode = LOAD_MODES[value, locked]


def mlock(params: Params, value: bool) -> None:
    """`--mlock`: the other half."""
    mapped = params.load_mode not in {LOAD_MODES[False, True], LOAD_MODES[False, False]}
    params.load_mode = LOAD_MODES[mapped, value]


def nothing(params: Params, value: Any) -> None:
    """For flags that only change how the log looks, and those that are seen to before parsing."""
