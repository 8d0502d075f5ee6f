"""Where a model's files lie, and whether they may be used."""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import re
from pathlib import Path

_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})", re.IGNORECASE)


class FileRefused(Exception):
    """A model file that cannot be used; the message says why, `hint` what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def absolute(path: Path, anchor: Path) -> Path:
    """The path with `~` expanded, below `anchor` if it is relative. Links are not followed."""
    with contextlib.suppress(RuntimeError):  # no such user: a folder may really be called so
        path = path.expanduser()
    return Path(os.path.normpath(anchor / path))


def is_file(path: Path) -> bool:
    """As `Path.is_file`, which raises for a name that is too long and in a folder that may not be entered."""
    return os.path.isfile(path)  # noqa: PTH113


def is_folder(path: Path) -> bool:
    """The same for `Path.is_dir`."""
    return os.path.isdir(path)  # noqa: PTH112


def exists(path: Path) -> bool:
    """The same for `Path.exists`."""
    return os.path.exists(path)  # noqa: PTH110


def shard(path: Path) -> tuple[str, int, int] | None:
    """Stem, number and count of `stem-00001-of-00003.gguf`; None for a model in one file."""
    match = _SHARD.fullmatch(path.stem)
    if match is None or not 1 <= int(match["number"]) <= int(match["count"]):
        return None
    return match["stem"], int(match["number"]), int(match["count"])


def shard_files(path: Path) -> tuple[Path, ...]:
    """All files of a model whose first one is `path`, whether they exist or not: llama.cpp finds the others by name."""
    parts = shard(path)
    if parts is None:
        return (path,)
    stem, _, count = parts
    return tuple(path.with_name(f"{stem}-{n:05}-of-{count:05}{path.suffix}") for n in range(1, count + 1))


def locate(path: Path, root: Path) -> Path:
    """The absolute path of a configured model file, after every check that can be made without reading it.

    A relative path may not leave `root`, neither by `..` nor through a link. The result keeps links as they are: the
    other shards of a split model lie beside the link, not beside its target.

    Raises FileRefused.
    """
    confined = not _expands_to_absolute(path)
    if confined and ".." in path.parts:
        raise FileRefused(f"may not leave {root}", "write an absolute path, or set system.base_models_path")
    file = absolute(path, root)
    parts = shard(file)
    if parts is not None and parts[1] != 1:
        raise FileRefused(f"this is part {parts[1]} of {parts[2]}", f"name the first: {shard_files(file)[0].name}")
    for one in shard_files(file):
        _check(one, root if confined else None)
    return file


def _expands_to_absolute(path: Path) -> bool:
    return path.is_absolute() or absolute(path, Path("anchor")).is_absolute()


def _check(file: Path, root: Path | None) -> None:
    try:
        real = file.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        raise _missing(file, error) from error
    if root is not None and not real.is_relative_to(root.resolve()):
        raise FileRefused(f"a link leads out of {root} to {real}", "write the absolute path of the target")
    if not real.is_file():
        raise FileRefused(f"not a regular file: {file}")
    if not os.access(real, os.R_OK):
        raise FileRefused(f"not readable for this user: {file}")


def _missing(file: Path, error: OSError | RuntimeError) -> FileRefused:
    if isinstance(error, RuntimeError) or error.errno == errno.ELOOP:
        return FileRefused(f"its links lead in a circle: {file}")
    if os.path.islink(file):  # noqa: PTH114  the method of Path raises for a name that is too long
        return FileRefused(f"a link to nothing: {file} leads to {file.readlink()}")
    return FileRefused(f"no such file: {file}", _nearest(file))


def _nearest(file: Path) -> str:
    """The file that may have been meant."""
    try:
        names = [entry.name for entry in file.parent.iterdir()]
    except OSError:
        return f"there is no folder {file.parent}"
    found = difflib.get_close_matches(file.name, names, n=1)
    return f"did you mean {found[0]}?" if found else ""
