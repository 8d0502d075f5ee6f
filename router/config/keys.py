"""The keys that clients show: where they are written, and what is wrong with them.

Everywhere else a key is known by its name: in the access log, in metrics, in messages.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from router.config.files import absolute
from router.config.models import DIGEST, OTHER_KEYS, ApiConfig, KeySource, key_name_fault
from router.config.problems import key_path
from router.errors import Problem

MIN_LENGTH = 8
VARIABLES = ("API_KEY", "API_KEYS", "ADMIN_API_KEY", "METRICS_TOKEN")
_DEFAULT = "default"
_ADMIN, _METRICS = OTHER_KEYS
# Of each key that has a variable of its own.
VARIABLE_OF = {_DEFAULT: "API_KEY", _ADMIN: "ADMIN_API_KEY", _METRICS: "METRICS_TOKEN"}
_MOST_FILE = 4096  # bytes
_SECRETS = Path("/run/secrets")


@dataclass(frozen=True, slots=True)
class ClientKey:
    """Attributes:
    digest: SHA-256 of the key in UTF-8; all that is needed to know it again.
    secret: the key itself, so that logs can be cleaned of it; None where only its digest was written.
    """

    name: str
    digest: bytes = field(repr=False)
    secret: SecretStr | None = field(default=None, repr=False)

    @classmethod
    def of(cls, name: str, text: str) -> ClientKey:
        """From how it is written: the key, or `sha256:` and the 64 digits of its digest."""
        if text.startswith(DIGEST):
            return cls(name, bytes.fromhex(text.removeprefix(DIGEST)))
        return cls(name, hashlib.sha256(text.encode()).digest(), SecretStr(text))


@dataclass(frozen=True, slots=True)
class Keys:
    """Who may come in by a key.

    Attributes:
        clients: open inference, and without an `admin` key everything.
        admin: opens everything; None = there is no such distinction.
        metrics: opens the router's metrics and nothing else.
    """

    clients: tuple[ClientKey, ...] = ()
    admin: ClientKey | None = None
    metrics: ClientKey | None = None

    @classmethod
    def of(cls, *, api_key: str | None = None, admin: str | None = None, metrics: str | None = None) -> Keys:
        """From Python; none of them is checked."""
        return cls(
            clients=(ClientKey.of(_DEFAULT, api_key),) if api_key else (),
            admin=ClientKey.of(_ADMIN, admin) if admin else None,
            metrics=ClientKey.of(_METRICS, metrics) if metrics else None,
        )

    @property
    def everyone(self) -> tuple[ClientKey, ...]:
        """All of them."""
        return (*self.clients, *(key for key in (self.admin, self.metrics) if key is not None))

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be logged."""
        return tuple(key.secret.get_secret_value() for key in self.everyone if key.secret is not None)


@dataclass(frozen=True, slots=True)
class _Written:
    """A key as it was found: where, by which name, and its text; `fault` in place of a text that cannot be had."""

    where: str
    name: str
    text: str = ""
    fault: str = ""


def read_keys(environ: Mapping[str, str], api: ApiConfig, folder: Path, problems: list[Problem]) -> Keys:
    """All keys, those of the file and of the environment together; what is wrong with them goes into `problems`.

    Args:
        environ: also where the file's `key_env` are looked up.
        folder: of relative `key_file`s.
    """
    written = [
        *(_Written(name, role, environ[name]) for role, name in VARIABLE_OF.items() if name in environ),
        *_listed(environ.get("API_KEYS", ""), problems),
        *(_sourced(name, source, environ, folder) for name, source in api.api_keys.items()),
    ]
    found: dict[str, ClientKey] = {}
    origins: dict[bytes, str] = {}
    for one in written:
        if fault := one.fault or _fault(one.text) or (one.name in found and f"there is a key '{one.name}' already"):
            problems.append(Problem(one.where, fault))
            continue
        key = ClientKey.of(one.name, one.text)
        if key.digest in origins:
            problems.append(Problem(one.where, f"the same key as {origins[key.digest]}", "give each its own"))
            continue
        found[one.name], origins[key.digest] = key, one.where
    return Keys(admin=found.pop(_ADMIN, None), metrics=found.pop(_METRICS, None), clients=tuple(found.values()))


def exposed_files(api: ApiConfig, keys: Keys, folder: Path) -> Iterator[str]:
    """A note on each `key_file` in which every account of this machine can read a key; a digest may be read.

    Args:
        keys: those that were read.
        folder: of relative `key_file`s.
    """
    told = {key.name for key in keys.clients if key.secret is not None}
    for name, source in api.api_keys.items():
        if name in told and source.key_file is not None and _is_exposed(file := absolute(source.key_file, folder)):
            where = key_path(("api", "api_keys", name, "key_file"))
            yield f"{where}: every account of this machine can read {file}; chmod 600, or 640 with the router's group"


def _is_exposed(file: Path) -> bool:
    """By its mode and those of the folders on the way.

    Not where containers get their secrets, readable for all by custom: no account is there but the router's.
    """
    try:
        real = file.resolve()
        if os.name != "posix" or _SECRETS in real.parents or not real.stat().st_mode & stat.S_IROTH:
            return False
        return all(parent.stat().st_mode & stat.S_IXOTH for parent in real.parents)
    except OSError:
        return False  # it cannot be read, which is told elsewhere


def _listed(text: str, problems: list[Problem]) -> Iterator[_Written]:
    """The entries of API_KEYS. None of their text is shown: what is not a name may be a key."""
    for number, entry in enumerate(text.split(",") if text else (), start=1):
        name, colon, key = entry.strip().partition(":")
        where = f"API_KEYS, entry {number}"
        if not colon or key_name_fault(name):
            problems.append(Problem(where, "expected name:key", "names of letters, digits, `.`, `_` and `-`"))
        else:
            yield _Written(where, name, key)


def _sourced(name: str, source: KeySource, environ: Mapping[str, str], folder: Path) -> _Written:
    location = ("api", "api_keys", name)
    if source.key is not None:
        return _Written(key_path(location), name, source.key.get_secret_value())
    if source.key_env is not None:
        where, text = key_path((*location, "key_env")), environ.get(source.key_env, "")
        return _Written(where, name, text, "" if text else f"{source.key_env} is not set")
    where = key_path((*location, "key_file"))
    assert source.key_file is not None  # noqa: S101  one of the three is there
    text, fault = _content(absolute(source.key_file, folder))
    return _Written(where, name, text, fault)


def _content(file: Path) -> tuple[str, str]:
    """A file's text, or what is wrong with the file."""
    try:
        if not stat.S_ISREG(file.stat().st_mode):  # a pipe would be waited for when it is read anew
            return "", f"not a regular file: {file}"
        with file.open("rb") as stream:
            data = stream.read(_MOST_FILE + 1)
        if len(data) > _MOST_FILE:
            return "", f"more than {_MOST_FILE} bytes: {file}"
        return data.decode().removesuffix("\n").removesuffix("\r"), ""
    except OSError as error:
        return "", f"cannot be read: {file}: {error.strerror}"
    except UnicodeDecodeError as error:
        return "", f"not UTF-8 at byte {error.start}: {file}"


def _fault(text: str) -> str:
    """What is wrong with a key, in words that do not show it."""
    if not text:
        return "the key is empty"
    if text != text.strip() or not text.isprintable():
        return "white space at an end of the key, or characters that cannot be printed: clients could not send it"
    if text.startswith(DIGEST):
        good = re.fullmatch(r"[0-9a-fA-F]{64}", text.removeprefix(DIGEST))
        return "" if good else f"expected 64 hexadecimal digits after {DIGEST}"
    if len(text) < MIN_LENGTH:
        return f"a key has at least {MIN_LENGTH} characters, this one has {len(text)}"
    return ""
