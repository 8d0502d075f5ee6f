"""Models found by themselves: every `*.gguf` below a folder."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from router.config.files import shard, shard_files
from router.config.names import name_fault

# Endings that tell one quantisation of a model from another: `-Q4_K_M`, `.IQ3_XXS`, `-bf16`, `-UD-Q4_K_XL`.
_QUANTISATION = re.compile(r"([-_.](UD|I?Q\d\w*|TQ\d\w*|MXFP4\w*|B?F16|F32))+$", re.IGNORECASE)
# The projector that is taken when a folder offers several: the precision that works everywhere comes first.
_PRECISIONS = ("f16", "bf16", "f32")
# More than the largest of model caches has. A base of `/` would be walked for minutes.
MOST_FOLDERS = 20_000


@dataclass(frozen=True, slots=True)
class Discovered:
    """A model that was found.

    Attributes:
        file: absolute path of its (first) file.
        mmproj: the projector that belongs to it.
    """

    name: str
    file: Path
    mmproj: Path | None = None


def discover(
    base: Path, *, taken_names: Collection[str] = (), taken_files: Collection[Path] = ()
) -> tuple[tuple[Discovered, ...], tuple[str, ...]]:
    """The models below `base`, in order of their paths, and a note on everything that was left out.

    A model is called by its file without `.gguf` and without `-00001-of-00003`; where two would be called alike, by the
    path below `base`. A projector (`mmproj*.gguf`) is attached to the models of its folder, not served.

    Args:
        taken_names: names in use already.
        taken_files: resolved files that are configured already, and therefore not found again.
    """
    notes: list[str] = []
    files = list(_usable(base, notes))
    projectors = [file for file in files if file.name.lower().startswith("mmproj")]
    models = [
        file
        for file in files
        if file not in projectors and _is_whole(file, notes) and file.resolve() not in taken_files
    ]
    named = _named(models, base, taken_names, notes)
    found = _with_projectors(named, projectors, notes)
    return found, tuple(_printable(note) for note in notes)


def _usable(base: Path, notes: list[str]) -> Iterable[Path]:
    """Regular files called `*.gguf` that really lie below the folder."""
    root = base.resolve()

    def unreadable(error: OSError) -> None:
        notes.append(f"{error.filename}: left out, cannot be read: {error.strerror}")

    for number, (folder, folders, names) in enumerate(os.walk(base, onerror=unreadable)):
        if number == MOST_FOLDERS:
            notes.append(f"{base}: has more than {number} folders, and from {folder} on none was looked into")
            return
        folders.sort()
        notes += [
            f"{Path(folder, name)}: left out, a link to a folder" for name in folders if Path(folder, name).is_symlink()
        ]
        for file in (Path(folder, name) for name in sorted(names) if name.lower().endswith(".gguf")):
            if not _is_utf8(file):
                notes.append(f"{file}: left out, its path is not UTF-8")
            elif not file.is_file() or not os.access(file, os.R_OK):
                notes.append(f"{file}: left out, not a readable file")
            elif not file.resolve().is_relative_to(root):
                notes.append(f"{file}: left out, a link that leads out of {base}")
            else:
                yield file


def _is_utf8(path: Path) -> bool:
    return not re.search(r"[\ud800-\udfff]", str(path))


def _printable(note: str) -> str:
    return note.encode(errors="backslashreplace").decode()


def _is_whole(file: Path, notes: list[str]) -> bool:
    """Whether this file begins a model all of whose parts are there."""
    parts = shard(file)
    if parts is None:
        return True
    first, missing = shard_files(file)[0], [one for one in shard_files(file) if not one.is_file()]
    if missing and file == min(one for one in shard_files(file) if one.is_file()):
        notes.append(f"{file}: left out, {len(missing)} of its {parts[2]} parts are missing, e.g. {missing[0].name}")
    return file == first and not missing


def _stem(file: Path) -> str:
    parts = shard(file)
    return parts[0] if parts else file.stem


def _named(files: Sequence[Path], base: Path, taken: Collection[str], notes: list[str]) -> list[Discovered]:
    counts = Counter(_stem(file) for file in files)
    used, found = set(taken), []
    for file in files:
        name = _stem(file)
        if counts[name] > 1 or name in used:
            name = file.relative_to(base).with_name(name).as_posix()
        fault = "the name is taken" if name in used else name_fault(name)
        if fault:
            notes.append(f"{file}: left out, {fault}")
            continue
        used.add(name)
        found.append(Discovered(name, file))
    return found


def _with_projectors(
    models: Sequence[Discovered], projectors: Sequence[Path], notes: list[str]
) -> tuple[Discovered, ...]:
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for projector in projectors:
        by_folder[projector.parent].append(projector)
    families: dict[Path, set[str]] = defaultdict(set)
    for model in models:
        families[model.file.parent].add(_family(_stem(model.file)))
    attached = tuple(
        replace(
            model, mmproj=_projector(model, by_folder[model.file.parent], alone=len(families[model.file.parent]) == 1)
        )
        for model in models
    )
    for candidates in by_folder.values():
        if not any(model.mmproj in candidates for model in attached):
            notes += [
                f"{one}: left out, a projector, and no model of its folder is called like it" for one in candidates
            ]
    return attached


def _projector(model: Discovered, candidates: Sequence[Path], *, alone: bool) -> Path | None:
    """The projector called like the model; any, if its folder holds nothing but quantisations of this one model."""
    name = _stem(model.file).lower()
    called_alike = [one for one in candidates if (subject := _subject(one)) and name.startswith(subject)]
    fitting = called_alike or (list(candidates) if alone else [])
    return min(fitting, key=_preference, default=None)


def _subject(projector: Path) -> str:
    """What the projector is called after `mmproj`: the model it was made for, if anything."""
    return _family(projector.stem[len("mmproj") :]).strip("-_.").lower()


def _preference(projector: Path) -> tuple[int, int, str]:
    """Longest subject first (it fits best), then precision, then name."""
    match = _QUANTISATION.search(projector.stem)
    precision = match[0].strip("-_.").lower() if match else ""
    rank = _PRECISIONS.index(precision) if precision in _PRECISIONS else len(_PRECISIONS)
    return -len(_subject(projector)), rank, projector.name


def _family(stem: str) -> str:
    return _QUANTISATION.sub("", stem).lower()
