"""The configuration file: from bytes to checked sections, with every problem on the way.

A section with problems is salvaged: what is wrong is left out and the rest goes on, so that the checks between sections
can say what else there is. The result of a file with problems is never used for anything but that.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from router.config.models import ApiConfig, ModelConfig, SystemConfig
from router.config.problems import SECTIONS, Location, key_path, problems_of, shown, unknown_key
from router.errors import ConfigError, Problem

Section = TypeVar("Section", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Document:
    """The sections of one file. A model that could not even be salvaged is None: its name is known, its file is not."""

    api: ApiConfig = field(default_factory=ApiConfig)
    system: SystemConfig = field(default_factory=SystemConfig)
    models: Mapping[str, ModelConfig | None] = field(default_factory=dict)


class _Object(dict[str, Any]):
    """A JSON object that remembers which of its keys came twice."""

    repeated: tuple[str, ...] = ()


def read_document(file: Path, problems: list[Problem]) -> Document:
    """Read and check one file; what is wrong with its content goes into `problems`.

    Raises ConfigError when it cannot be read as JSON at all.
    """
    data = _parse(file)
    if not isinstance(data, _Object):
        raise ConfigError(str(file), [Problem("", f"expected an object, got {shown(data)}")])
    problems += _repetitions(data)
    problems += [unknown_key((key,), value) for key, value in data.items() if key not in SECTIONS]
    return Document(
        api=_section(ApiConfig, data.get("api", {}), ("api",), problems) or ApiConfig(),
        system=_section(SystemConfig, data.get("system", {}), ("system",), problems) or SystemConfig(),
        models=_models(data.get("models", {}), problems),
    )


def _parse(file: Path) -> Any:
    try:
        text = file.read_bytes().decode("utf-8-sig")
        return json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant)
    except OSError as error:
        _fail(file, f"cannot be read: {error.strerror}")
    except UnicodeDecodeError as error:
        _fail(file, f"not UTF-8 at byte {error.start}", "save the file as UTF-8")
    except json.JSONDecodeError as error:
        _fail(file, f"not JSON at line {error.lineno}, column {error.colno}: {error.msg}", _syntax_hint(error))
    except RecursionError:
        _fail(file, "nested too deeply")
    except ValueError as error:
        _fail(file, f"not usable JSON: {str(error).partition(';')[0]}")


def _fail(file: Path, message: str, hint: str = "") -> NoReturn:
    raise ConfigError(str(file), [Problem("", message, hint)]) from None


def _syntax_hint(error: json.JSONDecodeError) -> str:
    """The two habits of other formats that people bring along."""
    rest = error.doc[error.pos :].lstrip()
    before = error.doc[: error.pos].rstrip()
    if rest.startswith(("//", "/*", "#")):
        return "JSON has no comments"
    if (before.endswith(",") and rest.startswith(("}", "]"))) or rest.startswith(","):
        return "remove the comma before the closing bracket"
    return ""


def _object(pairs: list[tuple[str, Any]]) -> _Object:
    found = _Object(pairs)
    if len(found) != len(pairs):
        found.repeated = tuple(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _repetitions(document: _Object) -> list[Problem]:
    """Keys that stand twice in one object, anywhere: JSON would silently keep the last."""
    found: list[Problem] = []
    pending: deque[tuple[Any, tuple[int | str, ...]]] = deque([(document, ())])
    while pending:  # not by recursion: json reads deeper than Python may call
        value, location = pending.popleft()
        if isinstance(value, _Object):
            found += [
                Problem(key_path((*location, key)), "this key stands here more than once", "keep one of them")
                for key in value.repeated
            ]
        inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        pending += [(item, (*location, part)) for part, item in inside]
    return found


def _models(data: Any, problems: list[Problem]) -> dict[str, ModelConfig | None]:
    if not isinstance(data, dict):
        problems.append(Problem("models", f"expected an object, got {shown(data)}", 'e.g. {"name": {"model_path": …}}'))
        return {}
    return {name: _section(ModelConfig, value, ("models", name), problems) for name, value in data.items()}


def _section(kind: type[Section], data: Any, location: Location, problems: list[Problem]) -> Section | None:
    """The section as written; with problems, what can be salvaged of it, or None."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        problems += problems_of(error, location)
        wrong = {details["loc"][0] for details in error.errors() if details["loc"]}
    if not isinstance(data, dict):
        return None
    try:
        return kind.model_validate({key: value for key, value in data.items() if key not in wrong})
    except ValidationError:
        return None
