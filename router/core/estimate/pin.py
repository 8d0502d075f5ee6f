"""Which GPUs a model's flags settle on: `-dev`, `-sm`, `-mg`, `-ts`. Source: llama.cpp b11434, `common/arg.cpp`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from router.core.estimate.run import Flags
from router.core.types import Pin


def read_pin(flags: Sequence[str], env: Mapping[str, str] | None = None) -> Pin:
    """The GPUs that these flags ask for.

    `CUDA1` is the second of `gpu_devices`. With whole layers on each GPU (`-sm layer`, the default) llama.cpp does not
    look at `-mg`; it is taken as the wish to be on that one, if it has the room.
    """
    said = Flags(flags, env or {})
    devices = said.text("-dev", "--device", env="DEVICE")
    shares = _shares(said.text("-ts", "--tensor-split", env="TENSOR_SPLIT"))
    split = said.text("-sm", "--split-mode", env="SPLIT_MODE") or "layer"
    main = said.number("-mg", "--main-gpu", env="MAIN_GPU", default=-1)
    named = _positions(devices)
    alone = split == "none"
    if alone and (named or main >= 0):
        first = max(0, main)
        return Pin(gpus=(named[first] if first < len(named) else first,), alone=True, numbered=True)
    if devices is not None or shares:
        return Pin(gpus=named, shares=() if alone else shares, alone=alone, numbered=True)
    if main >= 0:
        return Pin(gpus=(main,) if split == "layer" else (), numbered=split != "layer")
    return Pin(alone=alone)


def _positions(devices: str | None) -> tuple[int, ...]:
    """`CUDA0,CUDA2` -> (0, 2); a name without a number says nothing to us."""
    found = (re.search(r"(\d{1,3})$", name.strip()) for name in (devices or "").split(","))
    return tuple(int(match[1]) for match in found if match)


def _shares(value: str | None) -> tuple[float, ...]:
    try:
        shares = tuple(float(part) for part in re.split(r"[,/]", value or "") if part)
    except ValueError:
        return ()
    return shares if any(shares) and all(0 <= share < float("inf") for share in shares) else ()
