"""Where clients' keys are written, and what is wrong with them. No problem shows a key."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from router.announcement import announce
from router.cli import main
from router.config import ClientKey, Keys, Settings, load_settings
from router.errors import ConfigError, Problem

SECRET = "sk-secret-of-nobody"
DIGEST = "sha256:" + hashlib.sha256(SECRET.encode()).hexdigest()
FILES = {"large": b"x" * 5000, "latin": b"\xff" * 9, "lines": b"secret-one\nsecret-two", "blank": b"\n"}
DIGEST_OF_SECRET = hashlib.sha256(SECRET.encode()).digest()


def load(folder: Path, api: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Settings:
    (folder / "a.gguf").touch()
    document = {"api": api, "models": {"a": {"model_path": "a.gguf"}}}
    (folder / "config.json").write_text(json.dumps(document), encoding="utf-8")
    return load_settings(environ=environ or {}, cwd=folder)


def problem(folder: Path, api: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Problem:
    """The only one there is."""
    with pytest.raises(ConfigError) as caught:
        load(folder, api, environ)
    (found,) = caught.value.problems
    assert "secret" not in str(found)
    return found


def test_keys_of_the_file_and_of_the_environment_count_together(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("key-from-a-file\n", encoding="utf-8")
    named = {
        "written": "key-as-written",
        "object": {"key": "key-of-an-object"},
        "file": {"key_file": "key"},
        "variable": {"key_env": "MY_KEY"},
        "digest": DIGEST,
    }
    environ = {
        "API_KEY": "key-by-default",
        "API_KEYS": "alice:key-of-alice, batch:key:with:colons",
        "MY_KEY": "key-of-a-variable",
        "ADMIN_API_KEY": "key-of-the-admin",
        "METRICS_TOKEN": "key-of-metrics",
    }
    keys = load(tmp_path, {"api_keys": named}, environ).keys
    assert {key.name: key.secret and key.secret.get_secret_value() for key in keys.clients} == {
        "default": "key-by-default",
        "alice": "key-of-alice",
        "batch": "key:with:colons",
        "written": "key-as-written",
        "object": "key-of-an-object",
        "file": "key-from-a-file",
        "variable": "key-of-a-variable",
        "digest": None,
    }
    assert keys.admin == ClientKey.of("admin", "key-of-the-admin")
    assert keys.metrics == ClientKey.of("metrics", "key-of-metrics")
    assert {key.name: key.digest for key in keys.clients}["digest"] == DIGEST_OF_SECRET
    assert len(keys.secrets) == 9


def test_without_any_there_are_none(tmp_path: Path) -> None:
    assert load(tmp_path, {}).keys == Keys()


@pytest.mark.parametrize("variable", ["API_KEY", "ADMIN_API_KEY", "METRICS_TOKEN"])
def test_a_digest_will_do_everywhere(variable: str, tmp_path: Path) -> None:
    (key,) = load(tmp_path, {}, {variable: DIGEST}).keys.everyone
    assert (key.digest, key.secret) == (DIGEST_OF_SECRET, None)


@pytest.mark.parametrize(
    ("key", "fault"),
    [
        ("", "empty"),
        ("secret", "at least 8 characters, this one has 6"),
        (f" {SECRET}", "white space"),
        (f"{SECRET}\n", "white space"),
        (" " * 10, "white space"),
        ("secret\x1b[31m-key", "cannot be printed"),
        ("secret\u2028keys", "cannot be printed"),
        ("sha256:secret", "64 hexadecimal digits"),
        (DIGEST + "0", "64 hexadecimal digits"),
        (DIGEST[:-1] + "é", "64 hexadecimal digits"),
    ],
)
def test_what_is_no_key(key: str, fault: str, tmp_path: Path) -> None:
    found = problem(tmp_path, {"api_keys": {"alice": key}})
    assert (found.path, fault in found.message) == ("api.api_keys.alice", True)
    if key:
        found = problem(tmp_path, {}, {"API_KEY": key})
        assert (found.path, fault in found.message) == ("API_KEY", True)


@pytest.mark.parametrize(
    ("source", "where", "message"),
    [
        ({}, "api.api_keys.alice", "one of"),
        ({"key": SECRET, "key_env": "X"}, "api.api_keys.alice", "one of"),
        ({"key": None}, "api.api_keys.alice", "one of"),
        (None, "api.api_keys.alice", "expected an object"),
        (12345678, "api.api_keys.alice", "expected an object"),
        ([SECRET], "api.api_keys.alice", "expected an object"),
        ({"key": 12345678}, "api.api_keys.alice.key", "expected a string"),
        ({"kye": SECRET}, "api.api_keys.alice.kye", "unknown key"),
        ({"key_file": "none"}, "api.api_keys.alice.key_file", "No such file"),
        ({"key_file": "."}, "api.api_keys.alice.key_file", "not a regular file"),
        ({"key_file": "large"}, "api.api_keys.alice.key_file", "more than 4096 bytes"),
        ({"key_file": "latin"}, "api.api_keys.alice.key_file", "not UTF-8 at byte 0"),
        ({"key_file": "lines"}, "api.api_keys.alice.key_file", "cannot be printed"),
        ({"key_file": "blank"}, "api.api_keys.alice.key_file", "empty"),
        ({"key_env": "NOT_SET"}, "api.api_keys.alice.key_env", "NOT_SET is not set"),
    ],
)
def test_what_is_no_place_of_a_key(source: object, where: str, message: str, tmp_path: Path) -> None:
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
    found = problem(tmp_path, {"api_keys": {"alice": source}})
    assert found.path == where
    assert message in found.message


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX's")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in problem(tmp_path, {"api_keys": {"alice": {"key_file": "pipe"}}}).message


def test_the_nearest_key_is_named(tmp_path: Path) -> None:
    assert "key_file" in problem(tmp_path, {"api_keys": {"alice": {"keyfile": "x"}}}).hint
    (tmp_path / "config.json").write_text(json.dumps({"api_keys": {"alice": SECRET}, "models": {}}))
    with pytest.raises(ConfigError, match=r'"api_keys" belongs in "api"'):
        load_settings(environ={"BASE_MODELS_PATH": str(tmp_path)}, cwd=tmp_path)


@pytest.mark.parametrize("name", ["", "a b", "-a", "ü", "a" * 65, "a\n", "a,b", "a:b"])
def test_what_is_no_name(name: str, tmp_path: Path) -> None:
    assert "letters, digits" in problem(tmp_path, {"api_keys": {name: SECRET}}).message


@pytest.mark.parametrize("name", ["admin", "metrics"])
def test_names_that_mean_something_else(name: str, tmp_path: Path) -> None:
    assert f"`{name}` is the name of" in problem(tmp_path, {"api_keys": {name: SECRET}}).message
    assert problem(tmp_path, {}, {"API_KEYS": f"{name}:{SECRET}"}).path == "API_KEYS, entry 1"


@pytest.mark.parametrize("text", [SECRET, f"good:{DIGEST},{SECRET}", f"good:{DIGEST},", f"good:{DIGEST},a b:{SECRET}x"])
def test_what_is_no_entry_of_the_list(text: str, tmp_path: Path) -> None:
    found = problem(tmp_path, {}, {"API_KEYS": text})
    assert found.path == f"API_KEYS, entry {text.count(',') + 1}"
    assert "name:key" in found.message


@pytest.mark.parametrize(
    ("api", "environ", "where", "message"),
    [
        ({"alice": f"{SECRET}-1"}, {"API_KEYS": f"alice:{SECRET}-2"}, "api.api_keys.alice", "a key 'alice' already"),
        ({"default": f"{SECRET}-1"}, {"API_KEY": SECRET}, "api.api_keys.default", "a key 'default' already"),
        ({"alice": SECRET, "bob": DIGEST}, {}, "api.api_keys.bob", "the same key as api.api_keys.alice"),
        ({"alice": SECRET}, {"ADMIN_API_KEY": SECRET}, "api.api_keys.alice", "the same key as ADMIN_API_KEY"),
        ({}, {"API_KEY": SECRET, "METRICS_TOKEN": SECRET}, "METRICS_TOKEN", "the same key as API_KEY"),
    ],
)
def test_no_name_and_no_key_stands_twice(
    api: Mapping[str, str], environ: Mapping[str, str], where: str, message: str, tmp_path: Path
) -> None:
    found = problem(tmp_path, {"api_keys": api}, environ)
    assert (found.path, message in found.message) == (where, True)


def test_nothing_shows_a_key(tmp_path: Path) -> None:
    settings = load(tmp_path, {"api_keys": {"alice": SECRET}}, {"ADMIN_API_KEY": f"{SECRET}-2"})
    shown = repr(settings) + repr(settings.keys) + str(settings.api) + repr(settings.api.api_keys)
    assert "secret-of" not in shown
    assert repr(DIGEST_OF_SECRET) not in shown


@pytest.mark.parametrize("host", ["", "http://a", "a:80", "a b", "*a", "a.*", "a/", "ü.example", "[::1]", "*.*"])
def test_what_is_no_allowed_host(host: str, tmp_path: Path) -> None:
    assert problem(tmp_path, {"allowed_hosts": [host]}).path == "api.allowed_hosts[0]"


def test_allowed_hosts_are_read_in_lower_case(tmp_path: Path) -> None:
    assert load(tmp_path, {"allowed_hosts": ["LLM.example", "*.A.b"]}).api.allowed_hosts == ("llm.example", "*.a.b")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """That everybody may enter; pytest's own folders are its user's."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.skipif(os.name != "posix", reason="modes mean something on POSIX only")
@pytest.mark.parametrize(
    ("key", "file_mode", "folder_mode", "exposed"),
    [
        (SECRET, 0o644, 0o755, True),
        (SECRET, 0o444, 0o755, True),
        (SECRET, 0o640, 0o755, False),
        (SECRET, 0o600, 0o755, False),
        (SECRET, 0o644, 0o750, False),
        (DIGEST, 0o644, 0o755, False),
    ],
)
def test_a_file_that_everybody_can_read_is_complained_about(
    key: str, file_mode: int, folder_mode: int, exposed: bool, open_folder: Path
) -> None:
    file = open_folder / "key"
    file.write_text(key, encoding="utf-8")
    file.chmod(file_mode)
    open_folder.chmod(folder_mode)
    warnings = load(open_folder, {"api_keys": {"alice": {"key_file": "key"}}}).warnings
    assert len(warnings) == exposed
    for warning in warnings:
        assert warning.startswith(f"api.api_keys.alice.key_file: every account of this machine can read {file}; chmod")


@pytest.mark.skipif(os.name != "posix", reason="modes mean something on POSIX only")
def test_secrets_of_a_container_may_be_readable_for_all(open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.config.keys._SECRETS", open_folder / "run" / "secrets")
    (open_folder / "run" / "secrets" / "..data").mkdir(parents=True)
    (open_folder / "run" / "secrets" / "..data" / "key").write_text(SECRET, encoding="utf-8")
    (open_folder / "link").symlink_to("run/secrets/..data/key")  # Kubernetes' are links too
    assert load(open_folder, {"api_keys": {"alice": {"key_file": "link"}}}).warnings == ()


@pytest.mark.skipif(os.name != "posix", reason="modes mean something on POSIX only")
def test_the_complaint_is_a_warning_of_the_log_and_of_check_config(
    open_folder: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    (open_folder / "key").write_text(SECRET, encoding="utf-8")
    settings = load(open_folder, {"api_keys": {"alice": {"key_file": "key"}}})
    with socket.create_server(("127.0.0.1", 0)) as sock, caplog.at_level(logging.WARNING):
        announce(settings, sock, None)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [("WARNING", settings.warnings[0])]
    assert main(["check-config", "--config", str(open_folder / "config.json")]) == 0
    told = capsys.readouterr().out
    assert f"warning: {settings.warnings[0]}" in told
    assert SECRET not in told
