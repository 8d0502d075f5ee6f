"""llama-server's command line for one child."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

from router.backends.capabilities import Capabilities
from router.backends.port_pool import LOOPBACK
from router.core.estimate import MOST_CHECKPOINTS

_VERBOSITY = {"-lv", "--verbosity", "--log-verbosity", "-v", "--verbose", "--log-verbose"}
_CTX_PAD = 256  # of each slot
_CACHE_RAM = {"-cram", "--cache-ram"}
_MIB = 1024**2
_LOG_FLAGS = {"--log-jsonl", "--log-disable", "--log-file"}


def build_argv(
    capabilities: Capabilities,
    *,
    alias: str,
    model_path: Path,
    port: int,
    slots: int,
    flags: Sequence[str],
    cache_ram_mb: int | None,
    whole: Sequence[str] = (),
    shares: Sequence[int] = (),
    checkpoints: int | None = None,
    slot_save_path: Path | None = None,
) -> tuple[str, ...]:
    """The whole command line. The key is not in it: everybody on the host can read a command line.

    Args:
        slots: passed explicitly, because without `-np` the slots share one context and fail together.
        flags: the user's, last and as they are, so that they win.
        cache_ram_mb: prompt cache in host RAM; None leaves llama-server's default.
        whole: flags of a load that fits whole; empty if llama.cpp has to make it fit.
        shares: how it is spread over several GPUs.
        checkpoints: of the context, for each slot; None leaves llama-server's own number.
        slot_save_path: an existing folder for what slots remember.
    """
    given = {flag.partition("=")[0] for flag in flags}
    argv = [*capabilities.command, "-m", str(model_path), "--alias", alias, "--host", LOOPBACK, "--port", str(port)]
    if not given & {"-np", "--parallel"}:
        argv += ["-np", str(slots)]
    if cache_ram_mb is not None and not given & _CACHE_RAM and capabilities.supports("--cache-ram"):
        argv += ["--cache-ram", str(cache_ram_mb)]
    if checkpoints is not None and capabilities.supports("--ctx-checkpoints"):
        argv += ["--ctx-checkpoints", str(checkpoints)]
    if slot_save_path is not None:
        argv += ["--slot-save-path", f"{slot_save_path}/"]
    argv += [flag for flag in ("--metrics", "--slots") if capabilities.supports(flag) and flag not in given]
    if not given & _LOG_FLAGS:  # one of its JSON lines tells what the load will take
        argv += [flag for flag in ("--log-jsonl",) if capabilities.supports(flag)]
    argv += _fit(capabilities, given, whole)
    if shares:
        argv += ["-ts", ",".join(map(str, shares))]
    # Renamed in the course of time; the page would only be reachable with the child's key anyway.
    argv += [flag for flag in ("--no-ui", "--no-webui") if capabilities.supports(flag)][:1]
    return (*argv, *flags)


def names_cache(flags: Sequence[str], env: Mapping[str, str]) -> bool:
    """Whether these say themselves how large the prompt cache is to be."""
    return "LLAMA_ARG_CACHE_RAM" in env or any(flag.partition("=")[0] in _CACHE_RAM for flag in flags)


def restrained(
    withheld: int, cache_ram_mb: int | None, checkpoints: int | None, checkpoint_bytes: int
) -> tuple[int | None, int | None]:
    """MiB of prompt cache, and checkpoints for each slot, so many bytes less in all; the cache goes first.

    Args:
        cache_ram_mb: None where it is not ours to say.
        checkpoints: None for llama-server's own number.
        checkpoint_bytes: of one of each slot; 0 where their number is not ours to say.
    """
    left = (cache_ram_mb or 0) * _MIB - withheld
    if cache_ram_mb is not None:
        cache_ram_mb = max(0, left // _MIB)
    if left < 0 and checkpoint_bytes:
        checkpoints = max(0, (MOST_CHECKPOINTS if checkpoints is None else checkpoints) + left // checkpoint_bytes)
    return cache_ram_mb, checkpoints


def shortened(contexts: tuple[int, int], slots: int, squeeze: float) -> int:
    """Tokens over all slots, when this part (0 to 1) of what can be done without has to be."""
    shortest, whole = contexts
    step = _CTX_PAD * max(1, slots)
    return max(shortest, int(whole - squeeze * (whole - shortest)) // step * step)


def _fit(capabilities: Capabilities, given: AbstractSet[str], whole: Sequence[str]) -> Sequence[str]:
    """Whether llama.cpp is to cut the model to what is free.

    What it cuts, it says at verbosity 4 only. That is four times as many lines per request, so it is not asked for
    where nothing is cut.
    """
    if not capabilities.supports("--fit"):
        return ()
    if whole:
        return whole
    return () if given & _VERBOSITY else ("-lv", "4")
