"""From what pydantic found wrong to sentences for people: key path, value, what was expected, the nearest known key."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from router.config.models import ApiConfig, KeySource, ModelConfig, PriorityOffsets, SystemConfig
from router.errors import Problem

SECTIONS: dict[str, type[BaseModel] | None] = {"api": ApiConfig, "system": SystemConfig, "models": None}

_MAX_SHOWN = 80
_MAX_LISTED = 30
_SECRET = re.compile(r"key|token|secret|passw|credential|auth", re.IGNORECASE)
_ENVIRONMENT_ONLY = ("API_KEY", "ADMIN_API_KEY", "METRICS_TOKEN", "CONFIG_PATH")
_KEYS = ("api", "api_keys")
# Sections within sections, and what their keys are called.
_INNER: dict[tuple[int | str, ...], tuple[type[BaseModel], str]] = {
    _KEYS: (KeySource, "keys"),
    ("system", "priority_offsets_sec"): (PriorityOffsets, "classes"),
}
_EXPECTED = {
    "bool_type": "expected true or false",
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "finite_number": "expected a finite number",
    "string_type": "expected a string",
    "string_unicode": "expected valid Unicode",
    "path_type": "expected a path (a string)",
    "is_instance_of": "expected a path (a string)",
    "tuple_type": "expected a list",
    "mapping_type": "expected an object",
    "dict_type": "expected an object",
    "model_type": "expected an object",
    "greater_than": "expected more than {gt:g}",
    "greater_than_equal": "expected {ge:g} or more",
    "less_than_equal": "expected {le:g} or less",
}

Location = Sequence[int | str]


def key_path(location: Location) -> str:
    """The way to a value, as it would be written: `models["org/m:q4"].flags[2]`."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif re.fullmatch(r"[\w-]+", part):
            path += f".{part}" if path else part
        else:
            path += f"[{_quote(part)}]"
    return path


def shown(value: Any, location: Location = ()) -> str:
    """A value as it may be printed: short, and never one that could be a secret."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, (list, tuple)):
        return "a list"
    if _is_secret(value, location):
        return "a value that is not shown"
    text = _quote(value) if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def problems_of(error: ValidationError, prefix: Location) -> list[Problem]:
    """Everything that pydantic found in one section."""
    return [_problem(details, prefix) for details in error.errors(include_url=False)]


def unknown_key(location: Location, value: Any) -> Problem:
    """A key that no section has in this place."""
    return Problem(key_path(location), f"unknown key, got {shown(value, location)}", _nearest_key(location))


def nearest(name: str, known: Sequence[str], what: str) -> str:
    """A hint: the known name that was probably meant, else which there are."""
    if close := difflib.get_close_matches(name, known, n=1, cutoff=0.5):
        return f"did you mean {_quote(close[0])}?"
    some = ", ".join(_quote(one) if not one.isprintable() else one for one in known[:_MAX_LISTED])
    return f"known {what}: {some or 'none'}{', …' if len(known) > _MAX_LISTED else ''}"


def _problem(details: ErrorDetails, prefix: Location) -> Problem:
    location = [*prefix, *(part for part in details["loc"] if part != "[key]")]
    value, kind = details["input"], details["type"]
    if kind == "extra_forbidden":
        return unknown_key(location, value)
    if kind == "missing":
        return Problem(key_path(location), "required, but not there")
    context = details.get("ctx", {})
    if kind == "refused":
        return Problem(key_path(location), _with_value(details, location), context["hint"])
    expected = _EXPECTED.get(kind, details["msg"]).format_map(context)
    return Problem(key_path(location), f"{expected}, got {shown(value, location)}", _type_hint(kind, value))


def _with_value(details: ErrorDetails, location: Location) -> str:
    """A sentence of ours, with the value unless it says it already or the value could be a secret (`--api-key=…`)."""
    message, value = details["msg"], details["input"]
    if _field(location) in {"flags", "env"} or not isinstance(value, str):
        return message
    return f"{message}, got {shown(value, location)}"


def _type_hint(kind: str, value: Any) -> str:
    if kind == "string_type" and isinstance(value, (int, float)):
        return f'write "{json.dumps(value)}" with quotes'
    if not isinstance(value, str):
        return ""
    if kind in {"int_type", "float_type"} and re.fullmatch(r"-?\d+(\.\d+)?", value):
        return f"write {value} without the quotes"
    if kind == "bool_type" and value.lower() in {"true", "false"}:
        return f"write {value.lower()} without the quotes"
    if kind == "tuple_type":
        return "write it between [ and ]"
    return ""


def _nearest_key(location: Location) -> str:
    """The known key that was probably meant, here or in another section."""
    name, here = str(location[-1]), location[0]
    if name.upper() in _ENVIRONMENT_ONLY:
        return f"set {name.upper()} in the environment or in .env"
    if len(location) == 1:
        section = next((found for found in ("api", "system") if name in _keys(found)), None)
        return f'"{name}" belongs in "{section}"' if section else nearest(name, list(SECTIONS), "keys")
    if here == "models":
        return nearest(name, list(ModelConfig.model_fields), "keys")
    if inner := _INNER.get(tuple(location[:2])):
        return nearest(name, list(inner[0].model_fields), inner[1])
    other = "system" if here == "api" else "api"
    if name in _keys(other):
        return f'"{name}" belongs in "{other}"'
    return nearest(name, _keys(str(here)), "keys")


def _keys(section: str) -> list[str]:
    model = SECTIONS.get(section)
    return list(model.model_fields) if model else []


def _field(location: Location) -> int | str | None:
    """The field of a model that a location is in."""
    return location[2] if location[:1] == ["models"] and len(location) > 2 else None


def _is_secret(value: Any, location: Location) -> bool:
    if tuple(location[:2]) == _KEYS:
        return True
    field = _field(list(location))
    known = len(location) > 1 and location[-1] in _keys(str(location[0]))  # no key of ours holds a secret
    suspects = [*([] if known else location[-1:]), *([value] if field == "flags" else [])]
    return field == "env" or any(isinstance(one, str) and _SECRET.search(one) for one in suspects)


def _quote(text: str) -> str:
    """The text in JSON's quotes, readable where it can be printed and escaped where not."""
    return json.dumps(text, ensure_ascii=not text.isprintable())
