"""What of the router's environment a child gets to see: little, and no secret of ours."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

# What a program needs to start, to find its libraries and to drive its accelerator. Everything else stays here: the
# router's own keys and tokens, and `LLAMA_ARG_*`, which would change every model behind the configuration's back.
_ALLOWED = re.compile(
    r"(PATH|HOME|LANG|LC_.*|LANGUAGE|TMPDIR|TEMP|TMP|TZ|USER|LOGNAME"
    r"|LD_LIBRARY_PATH|DYLD_.*|(CUDA|NVIDIA|GGML|HIP|ROCR|HSA|VK|OMP|KMP|MTL|METAL|ONEAPI|SYCL|ZES)_.*"
    r"|SYSTEMROOT|SYSTEMDRIVE|WINDIR|COMSPEC|PATHEXT|USERPROFILE|LOCALAPPDATA|PROGRAMDATA|NUMBER_OF_PROCESSORS)",
    re.IGNORECASE if sys.platform == "win32" else re.NOFLAG,
)
# Which devices a child may use is decided by its placement.
_DECIDED_HERE = frozenset({"CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"})
# llama.cpp applies `llama.cpp/config.ini` of this folder to whatever it starts: flags that no configuration of ours
# shows, those that are refused in it among them. There is nothing below this one.
_NO_CONFIG = {"XDG_CONFIG_HOME": os.devnull}
_PACKAGE_ROOT = Path(__file__).resolve().parents[2]


def inherited(own: Mapping[str, str] | None = None) -> dict[str, str]:
    """The part of our environment (or of `own`) that a child may inherit."""
    source = os.environ if own is None else own
    return {name: value for name, value in source.items() if _ALLOWED.fullmatch(name) and name not in _DECIDED_HERE}


def python_path(own: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a Python child needs to import this package, wherever it runs."""
    source = os.environ if own is None else own
    paths = [str(_PACKAGE_ROOT), *filter(None, source.get("PYTHONPATH", "").split(os.pathsep))]
    # Without SAFEPATH `python -m` would import what happens to lie in the child's working directory.
    return {"PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}


def llama_environment(*, embedded: bool) -> dict[str, str]:
    """What every llama-server gets, also one that is only asked what it can; `embedded` is our own Python."""
    return inherited() | _NO_CONFIG | (python_path() if embedded else {})


def child_environment(
    model_env: Mapping[str, str], *, key: str, gpus: Sequence[int], hide_gpus: bool, embedded: bool
) -> dict[str, str]:
    """The whole environment of a llama-server.

    Args:
        model_env: the model's `env` from the configuration; wins over what is inherited, not over what is decided here.
        key: the child's API key; llama-server reads it from `LLAMA_API_KEY`.
        gpus: NVML indices the child may use.
        hide_gpus: the machine has GPUs, so that an empty `gpus` has to hide them.
        embedded: the child is our own Python.
    """
    env = llama_environment(embedded=embedded) | dict(model_env)
    # NVML counts by PCI bus; without this CUDA counts by speed, and indices would name other devices.
    env |= {"LLAMA_API_KEY": key, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    if gpus or hide_gpus:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, gpus))
    return env
