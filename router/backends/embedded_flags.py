"""How llama-server reads its command line: a flag, a reader of values, the parser, and the text of `--help`.

The rules are those of llama.cpp's `common/arg.cpp`: the environment is applied first and the command line after it, a
long name may be written with `_` for `-`, a flag given twice counts as given last, and an unknown flag is an error.
One liberty is taken: `--flag=value` is understood too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Params = Any  # xllamacpp.CommonParams, a compiled class without type information
Reader = Callable[[str], Any]
Setter = Callable[[Params, Any], None]

TRUE_WORDS = ("on", "enabled", "true", "1")
FALSE_WORDS = ("off", "disabled", "false", "0")

# What readers raise, and what xllamacpp's attributes raise at a value they cannot hold.
BAD_VALUE = (ValueError, TypeError, OverflowError)

_HELP_COLUMN = 40
_HELP_WIDTH = 70


class BadCommandLine(Exception):
    """The command line or the environment cannot be understood; the message is for people."""


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag of llama-server.

    Attributes:
        names: its spellings; for a toggle those that switch it on.
        off: the spellings that switch a toggle off; empty for all others.
        store: puts the value where it belongs; raises ValueError with a reason.
        read: turns the text into a value, raising ValueError with what was expected; None for a flag without a value,
            for which `store` is given True or False.
        hint: stands for the value in `--help`.
        env: the environment variable that says the same.
    """

    names: tuple[str, ...]
    store: Setter
    help: str
    read: Reader | None = None
    hint: str = ""
    off: tuple[str, ...] = ()
    env: str = ""


# ---------------------------------------------------------------------------------------------------------------------
# Readers and setters


def text(raw: str) -> str:
    return raw


def integer(raw: str) -> int:
    try:
        return int(raw)
    except ValueError:
        raise ValueError(f"expected a whole number, not '{raw}'") from None


def at_least(least: int) -> Reader:
    """A whole number that is not below `least`."""

    def read(raw: str) -> int:
        number = integer(raw)
        if number < least:
            raise ValueError(f"expected {least} or more, not {number}")
        return number

    return read


def number(raw: str) -> float:
    try:
        return float(raw)
    except ValueError:
        raise ValueError(f"expected a number, not '{raw}'") from None


def boolean(raw: str) -> bool:
    if raw in TRUE_WORDS:
        return True
    if raw in FALSE_WORDS:
        return False
    raise ValueError(f"expected 'on' or 'off', not '{raw}'")


def words(meaning: Mapping[str, Any], otherwise: Reader | None = None) -> Reader:
    """One of these words; anything else goes to `otherwise`."""

    def read(raw: str) -> Any:
        if raw in meaning:
            return meaning[raw]
        if otherwise is not None:
            return otherwise(raw)
        raise ValueError(f"expected one of {', '.join(meaning)}, not '{raw}'")

    return read


def comma_separated(raw: str) -> list[str]:
    return [part.strip() for part in raw.split(",") if part.strip()]


def numbers(raw: str) -> list[float]:
    return [number(part) for part in raw.replace("/", ",").split(",") if part]


def file_text(raw: str) -> str:
    try:
        return Path(raw).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"failed to read the file '{raw}': {error}") from None


def directory(raw: str) -> str:
    """A folder that exists, with the slash at its end that the server expects."""
    if not Path(raw).is_dir():
        raise ValueError(f"not a directory: {raw}")
    return raw if raw.endswith("/") else raw + "/"


def into(path: str) -> Setter:
    """Store at this attribute path of the parameters, e.g. `cpuparams.n_threads`."""
    *parents, name = path.split(".")

    def store(params: Params, value: Any) -> None:
        for parent in parents:
            params = getattr(params, parent)
        setattr(params, name, value)

    return store


def inverse(path: str) -> Setter:
    """Like `into`, for an attribute that says the opposite of the flag."""
    store = into(path)
    return lambda params, value: store(params, not value)


# ---------------------------------------------------------------------------------------------------------------------
# Parsing


def apply(flags: Iterable[Flag], params: Params, argv: Sequence[str], environ: Mapping[str, str]) -> None:
    """Apply the environment, then the command line, to the parameters. Raises BadCommandLine."""
    flags = tuple(flags)
    for flag in flags:
        _apply_environment(flag, params, environ)
    spellings = {name: (flag, True) for flag in flags for name in flag.names}
    spellings |= {name: (flag, False) for flag in flags for name in flag.off}
    rest = iter(argv)
    for argument in rest:
        name, equals, attached = argument.partition("=") if argument.startswith("-") else (argument, "", "")
        if name.startswith("--"):
            name = name.replace("_", "-")
        if name not in spellings:
            raise BadCommandLine(f"error: invalid argument: {name}{_nearest(name, spellings)}")
        flag, positive = spellings[name]
        try:
            raw = attached if equals else next(rest, None) if flag.read else None
            flag.store(params, _interpreted(flag, raw, positive))
        except BAD_VALUE as error:
            raise BadCommandLine(f'error while handling argument "{name}": {error}\n\nusage:\n{usage(flag)}') from error


def _interpreted(flag: Flag, raw: str | None, positive: bool) -> Any:
    """The value for `store`; ValueError if one is missing, or given where none belongs."""
    if flag.read is None:
        if raw is not None:
            raise ValueError("it takes no value")
        return positive
    if raw is None:
        raise ValueError("expected value for argument")
    return flag.read(raw)


def _apply_environment(flag: Flag, params: Params, environ: Mapping[str, str]) -> None:
    if not flag.env:
        return
    raw = environ.get(flag.env)
    if flag.off and flag.env.replace("LLAMA_ARG_", "LLAMA_ARG_NO_") in environ:
        raw = "off"
    if raw is None:
        return
    try:
        if flag.read is not None:
            flag.store(params, flag.read(raw))
        elif flag.off:
            flag.store(params, boolean(raw))
        elif raw in TRUE_WORDS:
            flag.store(params, True)
    except BAD_VALUE as error:
        raise BadCommandLine(f'error while handling environment variable "{flag.env}": {error}') from error


def _nearest(name: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches  # noqa: PLC0415 - only needed on the way out, and start-up is counted in ms

    found = get_close_matches(name, known, n=1, cutoff=0.75)
    return f" (did you mean {found[0]}?)" if found else " (not known to the embedded llama.cpp)"


# ---------------------------------------------------------------------------------------------------------------------
# Help


def usage(flag: Flag) -> str:
    """One flag's lines of `--help`, laid out like llama-server's."""
    names = [*flag.names, *flag.off]
    first = f"{names[0]}, ".ljust(7) if len(names) > 1 else names[0]
    head = first + ", ".join(names[1:]) + (f" {flag.hint}" if flag.hint else "")
    lines = _wrapped(flag.help + (f"\n(env: {flag.env})" if flag.env else ""))
    margin = " " * _HELP_COLUMN
    start = f"{head}\n{margin}" if len(head) > _HELP_COLUMN - 3 else head.ljust(_HELP_COLUMN)
    return start + f"\n{margin}".join(lines) + "\n"


def _wrapped(paragraphs: str) -> list[str]:
    import textwrap  # noqa: PLC0415 - as above: only `--help` and errors come here

    return [line for paragraph in paragraphs.splitlines() for line in textwrap.wrap(paragraph, _HELP_WIDTH) or [""]]
