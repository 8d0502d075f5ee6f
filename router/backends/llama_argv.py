"""llama-server's command line for one child."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from router.backends.capabilities import Capabilities
from router.backends.port_pool import LOOPBACK


def build_argv(
    capabilities: Capabilities,
    *,
    alias: str,
    model_path: Path,
    port: int,
    slots: int,
    flags: Sequence[str],
    cache_ram_mb: int | None,
    slot_save_path: Path | None = None,
) -> tuple[str, ...]:
    """The whole command line. The key is not in it: everybody on the host can read a command line.

    Args:
        slots: passed explicitly, because without `-np` the slots share one context and fail together.
        flags: the user's, last and as they are, so that they win.
        cache_ram_mb: prompt cache in host RAM; None leaves llama-server's default.
        slot_save_path: an existing folder for what slots remember.
    """
    given = {flag.partition("=")[0] for flag in flags}
    argv = [*capabilities.command, "-m", str(model_path), "--alias", alias, "--host", LOOPBACK, "--port", str(port)]
    if not given & {"-np", "--parallel"}:
        argv += ["-np", str(slots)]
    if cache_ram_mb is not None and not given & {"-cram", "--cache-ram"} and capabilities.supports("--cache-ram"):
        argv += ["--cache-ram", str(cache_ram_mb)]
    if slot_save_path is not None:
        argv += ["--slot-save-path", f"{slot_save_path}/"]
    argv += [flag for flag in ("--metrics", "--slots") if capabilities.supports(flag) and flag not in given]
    # Renamed in the course of time; the page would only be reachable with the child's key anyway.
    argv += [flag for flag in ("--no-ui", "--no-webui") if capabilities.supports(flag)][:1]
    return (*argv, *flags)
