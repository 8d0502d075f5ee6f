"""Settings from files, environment and command line: precedence, paths, and every mistake at once."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from router.config import (
    ApiConfig,
    Keys,
    ModelConfig,
    Settings,
    SystemConfig,
    config_file,
    load_settings,
    parallel_slots,
    read_environment,
)
from router.errors import ConfigError, Problem


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with one model file, `models/a.gguf`."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "a.gguf").touch()
    return tmp_path


def write(folder: Path, document: Any) -> Path:
    file = folder / "config.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return file


def load(folder: Path, document: Any, environ: Mapping[str, str] | None = None, **options: Any) -> Settings:
    write(folder, document)
    return load_settings(environ=environ or {}, cwd=folder, **options)


def problems(folder: Path, document: Any, environ: Mapping[str, str] | None = None, **options: Any) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        load(folder, document, environ, **options)
    str(caught.value).encode()  # must be printable, whatever the file holds
    return list(caught.value.problems)


def only(found: list[Problem]) -> Problem:
    assert len(found) == 1, found
    return found[0]


def with_model(**model: Any) -> dict[str, Any]:
    return {"models": {"a": {"model_path": "models/a.gguf"} | model}}


ONE_MODEL = with_model()


# Where settings come from


def test_without_anything_there_are_defaults_and_no_models(tmp_path: Path) -> None:
    settings = load_settings(environ={}, cwd=tmp_path)
    assert (settings.source, dict(settings.models), settings.keys) == (None, {}, Keys())
    assert settings.state_dir == tmp_path / ".llama-router"


def test_command_line_goes_before_environment_before_file(folder: Path) -> None:
    document = ONE_MODEL | {"api": {"host": "10.0.0.1", "port": 1}}
    environ = {"ROUTER_HOST": "10.0.0.2", "ROUTER_PORT": "2"}
    assert load(folder, document).api.port == 1
    from_environment = load(folder, document, environ).api
    assert (from_environment.host, from_environment.port) == ("10.0.0.2", 2)
    from_command_line = load(folder, document, environ, host="::", port=0).api
    assert (from_command_line.host, from_command_line.port) == ("::", 0)


def test_the_real_environment_goes_before_dotenv_and_nothing_is_interpolated(folder: Path) -> None:
    (folder / ".env").write_text(
        "# a comment\nexport API_KEY='sk-$HOME ${X}'\nROUTER_PORT=1\nMETRICS_TOKEN=from-file\n"
    )
    settings = load(folder, ONE_MODEL, {"ROUTER_PORT": "2", "METRICS_TOKEN": ""})
    assert settings.keys.secrets == ("sk-$HOME ${X}", "from-file")
    assert settings.api.port == 2


def test_an_empty_variable_counts_as_not_set(folder: Path) -> None:
    environ = dict.fromkeys(("CONFIG_PATH", "ROUTER_HOST", "ROUTER_PORT", "LLAMA_SERVER_PATH", "API_KEY"), "")
    settings = load(folder, ONE_MODEL, environ)
    assert (settings.api.port, settings.keys, settings.system.llama_server_path) == (8000, Keys(), None)


def test_a_broken_dotenv_line_is_named_without_its_text(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text('GOOD=1\nAPI_KEY="sk-secret\n')
    with pytest.raises(ConfigError, match="line 2") as caught:
        read_environment({}, tmp_path)
    assert "secret" not in str(caught.value)


def test_which_file_is_read(folder: Path) -> None:
    other = folder / "other.json"
    other.touch()
    assert config_file(None, {}, folder) is None
    default = write(folder, {})
    assert config_file(None, {}, folder) == default
    assert config_file(None, {"CONFIG_PATH": "other.json"}, folder) == other
    assert config_file(default, {"CONFIG_PATH": "other.json"}, folder) == default


@pytest.mark.parametrize(
    ("path", "environ", "by"), [("no.json", {}, "--config"), (None, {"CONFIG_PATH": "no"}, "CONFIG_PATH")]
)
def test_a_named_file_that_is_missing_is_an_error(
    tmp_path: Path, path: str | None, environ: dict[str, str], by: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(config_path=Path(path) if path else None, environ=environ, cwd=tmp_path)
    assert only(list(caught.value.problems)).path == by


def test_the_api_key_is_never_printed(folder: Path) -> None:
    settings = load(folder, with_model(env={"HF_TOKEN": "hf-secret"}), {"API_KEY": "sk-secret"})
    assert "secret" not in repr(settings)
    found = problems(
        folder, {"api": {"api_key": "sk-secret"}} | with_model(env={"A": "1"}, flags="--api-key sk-secret")
    )
    assert "secret" not in str(found)
    assert found[0].hint == "set API_KEY in the environment or in .env"
    assert "secret" not in str(problems(folder, with_model(env={"LLAMA_API_KEY": "sk-secret", "N": ["secret"]})))
    assert "secret" not in str(problems(folder, with_model(flags=["--api-key=sk-secret"])))
    assert "secret" not in str(problems(folder, ONE_MODEL, {"API_KEY": "sk-secret\n"}))


# Mistakes


def test_all_mistakes_are_reported_at_once(folder: Path) -> None:
    document = {
        "api": {"port": "8000"},
        "sistem": {},
        "system": {"idle_timout_sec": 600, "max_concurrent_models": True, "preload_models": ["nope"]},
        "models": {
            "a": {"model_path": "models/b.gguf", "flags": ["--port", "1"]},
            "load": {"model_path": "../a.gguf"},
            "org/m:q4": {},
        },
    }
    found = {problem.path for problem in problems(folder, document, {"ROUTER_PORT": "x"})}
    assert found == {
        "ROUTER_PORT",
        "sistem",
        "api.port",
        "system.idle_timout_sec",
        "system.max_concurrent_models",
        "system.preload_models[0]",
        "models.a.flags[0]",
        "models.a.model_path",
        "models.load",
        "models.load.model_path",
        'models["org/m:q4"].model_path',
    }


@pytest.mark.parametrize(
    ("document", "path", "message", "hint"),
    [
        ({"api": {"port": "8000"}}, "api.port", 'expected a whole number, got "8000"', "write 8000 without the quotes"),
        ({"api": {"port": 80.5}}, "api.port", "expected a whole number, got 80.5", ""),
        ({"api": {"port": 65536}}, "api.port", "expected 65535 or less, got 65536", ""),
        ({"api": {"stream_ping_sec": 61}}, "api.stream_ping_sec", "expected 60 or less, got 61", ""),
        ({"api": {"stream_ping_sec": 0}}, "api.stream_ping_sec", "expected more than 0, got 0", ""),
        ({"api": {"max_body_mb": True}}, "api.max_body_mb", "expected a whole number, got true", ""),
        ({"api": {"max_body_mb": 0}}, "api.max_body_mb", "expected 1 or more, got 0", ""),
        ({"api": {"host": "a b"}}, "api.host", 'expected an address or a host name, got "a b"', "127.0.0.1"),
        ({"api": []}, "api", "expected an object, got a list", ""),
        ({"api": {"base_port": 1}}, "api.base_port", "unknown key, got 1", '"base_port" belongs in "system"'),
        ({"port": 1}, "port", "unknown key, got 1", '"port" belongs in "api"'),
        ({"system": {"queue_timeout": 3}}, "system.queue_timeout", "unknown key, got 3", 'mean "queue_timeout_sec"?'),
        ({"system": {"idle_timeout_sec": 0}}, "system.idle_timeout_sec", "expected more than 0, got 0", ""),
        ({"system": {"vram_multiplier": -0.5}}, "system.vram_multiplier", "expected more than 0, got -0.5", ""),
        ({"system": {"gpu_devices": [0, -1]}}, "system.gpu_devices[1]", "expected 0 or more, got -1", ""),
        ({"system": {"gpu_devices": [1, 1]}}, "system.gpu_devices", "expected each device once", ""),
        ({"system": {"gpu_devices": 0}}, "system.gpu_devices", "expected a list, got 0", ""),
        ({"system": {"state_dir": ""}}, "system.state_dir", "expected a path", ""),
        ({"system": {"state_dir": None}}, "system.state_dir", "expected a path (a string), got null", ""),
        ({"system": {"preload_models": ["b"]}}, "system.preload_models[0]", 'no such model, got "b"', "models: a"),
        ({"system": {"base_models_path": "none"}}, "system.base_models_path", "expected a folder, got", "create it"),
        ({"system": {"discover_models": True}}, "system.discover_models", "needs a folder", "BASE_MODELS_PATH"),
        (
            {"system": {"min_residency_sec": 1e300}},
            "system.min_residency_sec",
            "expected 1e+09 or less, got 1e+300",
            "",
        ),
        ({"system": {"idle_timeout_sec": 1e300}}, "system.idle_timeout_sec", "expected 1e+09 or less, got 1e+300", ""),
        (
            {"system": {"priority_offsets_sec": {"low": 1e300}}},
            "system.priority_offsets_sec.low",
            "expected 1e+09 or less, got 1e+300",
            "",
        ),
        ({"system": {"min_residency_sec": -1}}, "system.min_residency_sec", "expected 0 or more, got -1", ""),
        (
            {"system": {"priority_offsets_sec": {"hihg": 1}}},
            "system.priority_offsets_sec.hihg",
            "unknown key, got 1",
            'did you mean "high"?',
        ),
        (
            {"system": {"priority_offsets_sec": {"low": 5}}},
            "system.priority_offsets_sec",
            "expected high <= normal <= low, got high 0, normal 10, low 5",
            "a more urgent class",
        ),
        (
            {"system": {"priority_offsets_sec": {"low": "1e999"}}},
            "system.priority_offsets_sec.low",
            "expected a number",
            "",
        ),
        ({"system": {"priority_offsets_sec": 10}}, "system.priority_offsets_sec", "expected an object, got 10", ""),
        ({"api": {"max_body_mb": 2048}}, "api.max_buffered_mb", "expected at least max_body_mb (2048), got 1024", ""),
    ],
)
def test_a_mistake_says_where_what_and_what_to_do(
    folder: Path, document: dict[str, Any], path: str, message: str, hint: str
) -> None:
    found = only(problems(folder, ONE_MODEL | document))
    assert found.path == path
    assert found.message.startswith(message)
    assert hint in found.hint


@pytest.mark.parametrize(
    "origin", ["http://a/", "a.example", "http://", "http://a b", "null", "http://u@h", "http://a:x"]
)
def test_an_origin_is_scheme_host_and_port(folder: Path, origin: str) -> None:
    assert only(problems(folder, ONE_MODEL | {"api": {"cors_origins": [origin]}})).path == "api.cors_origins[0]"


def test_good_origins() -> None:
    origins = ("*", "http://localhost:3000", "HTTPS://Chat.example", "http://[::1]:80")
    assert ApiConfig(cors_origins=origins).cors_origins[2] == "https://chat.example"


@pytest.mark.parametrize(
    ("environ", "options", "path"),
    [
        ({"ROUTER_PORT": "65536"}, {}, "ROUTER_PORT"),
        ({"ROUTER_PORT": "-1"}, {}, "ROUTER_PORT"),
        ({"ROUTER_HOST": "http://x"}, {}, "ROUTER_HOST"),
        ({"BASE_MODELS_PATH": "none"}, {}, "BASE_MODELS_PATH"),
        ({"API_KEY": " key-of-somebody"}, {}, "API_KEY"),
        ({"API_KEY": "short"}, {}, "API_KEY"),
        ({"ROUTER_PORT": "1"}, {"port": 70000}, "--port"),
        ({}, {"host": ""}, "--host"),
    ],
)
def test_a_mistake_outside_the_file_names_its_source(
    folder: Path, environ: dict[str, str], options: dict[str, Any], path: str
) -> None:
    assert only(problems(folder, ONE_MODEL, environ, **options)).path == path


def test_keys_that_stand_twice_are_found_at_any_depth(folder: Path) -> None:
    text = """{"api": {"port": 1, "port": 2},
               "models": {"a": {"model_path": "models/a.gguf"},
                          "a": {"model_path": "models/a.gguf", "env": {"X": "1", "X": "1", "X": "2"}}}}"""
    found = problems(folder, text)
    assert [problem.path for problem in found] == ["api.port", "models.a", "models.a.env.X"]
    assert all("more than once" in problem.message for problem in found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"api":\n  {"port": 1,}}', "line 2, column 1"),
        ('{"api": 1,\n // no\n}', "JSON has no comments"),
        ("", "line 1, column 1"),
        ("[]", "expected an object, got a list"),
        ('{"api": {"port": NaN}}', "NaN is no JSON number"),
        ('{"a": ' + "9" * 5000 + "}", "not usable JSON"),
        ('{"a": ' + "[" * 900 + "]" * 900 + "}", "unknown key, got a list"),
        ('{"a": ' + "[" * 200_000 + "]" * 200_000 + "}", "nested too deeply"),
    ],
)
def test_a_file_that_is_no_json_or_strange_json(folder: Path, text: str, message: str) -> None:
    assert message in str(problems(folder, text)[0])


def test_a_file_that_is_not_utf8_and_one_with_a_byte_order_mark(folder: Path) -> None:
    file = folder / "config.json"
    file.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ConfigError, match="not UTF-8 at byte 7"):
        load_settings(environ={}, cwd=folder)
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(ONE_MODEL).encode())
    assert list(load_settings(environ={}, cwd=folder).models) == ["a"]


def test_lone_surrogates_are_refused_and_can_be_reported(folder: Path) -> None:
    text = r"""{"models": {"a\ud800": {"model_path": "models/a.gguf"},
                           "b": {"model_path": "models/\ud800.gguf", "flags": ["\ud800"]}}}"""
    found = {problem.path for problem in problems(folder, text)}
    assert found == {r'models["a\ud800"]', "models.b.model_path", "models.b.flags[0]"}


def test_a_file_that_serves_nothing(folder: Path) -> None:
    assert only(problems(folder, {})).path == "models"
    assert only(problems(folder, {"system": {"discover_models": False, "base_models_path": "models"}})).path == "models"


# Models


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("x" * 5000, "no such file"),
        ("models/b.gguf", "no such file"),
        ("models", "not a regular file"),
        ("models/../models/a.gguf", "may not leave"),
        ("models/out.gguf", "a link leads out"),
        ("models/loop.gguf", "its links lead in a circle"),
        ("models/dangling.gguf", "leads to gone.gguf"),
        ("models/s-00002-of-00002.gguf", "this is part 2 of 2"),
        ("models/s-00001-of-00002.gguf", "no such file"),
    ],
)
def test_a_model_file_that_cannot_be_used(folder: Path, path: str, message: str) -> None:
    (folder.parent / "outside.gguf").touch()
    (folder / "models/out.gguf").symlink_to(folder.parent / "outside.gguf")
    (folder / "models/loop.gguf").symlink_to(folder / "models/loop.gguf")
    (folder / "models/dangling.gguf").symlink_to("gone.gguf")
    (folder / "models/s-00002-of-00002.gguf").touch()
    found = only(problems(folder, with_model(model_path=path)))
    assert found.path == "models.a.model_path"
    assert message in found.message


def test_the_nearest_file_is_named(folder: Path) -> None:
    assert only(problems(folder, with_model(model_path="models/a.guf"))).hint == "did you mean a.gguf?"


def test_paths_of_the_file_are_relative_to_it_and_those_of_the_environment_to_the_working_directory(
    folder: Path,
) -> None:
    (folder / "work").mkdir()
    (folder / "bin").mkdir()
    for program in (folder / "bin/llama-server", folder / "work/mine"):
        program.touch(mode=0o755)
    document = {
        "system": {"base_models_path": "models", "state_dir": "state", "llama_server_path": "bin/llama-server"},
        "models": {"a": {"model_path": "a.gguf"}, "b": {"model_path": str(folder / "models/a.gguf")}},
    }
    file = write(folder, document)
    settings = load_settings(config_path=file, environ={}, cwd=folder / "work")
    assert settings.system.base_models_path == folder / "models"
    assert settings.system.llama_server_path == folder / "bin/llama-server"
    assert settings.state_dir == folder / "state"
    assert settings.model_file("a") == settings.model_file("b") == folder / "models/a.gguf"
    environ = {"BASE_MODELS_PATH": "../models", "LLAMA_SERVER_PATH": "mine"}
    settings = load_settings(config_path=file, environ=environ, cwd=folder / "work")
    assert settings.system.base_models_path == folder / "models"
    assert settings.system.llama_server_path == folder / "work/mine"
    write(folder, ONE_MODEL)
    assert load_settings(config_path=file, environ={}, cwd=folder / "work").state_dir == folder / "work/.llama-router"


def test_all_parts_of_a_split_model_are_known(folder: Path) -> None:
    parts = tuple(folder / f"models/s-0000{n}-of-00002.gguf" for n in (1, 2))
    for part in parts:
        part.touch()
    settings = load(folder, with_model(model_path="models/s-00001-of-00002.gguf"))
    assert settings.model_files("a") == parts


def test_names_and_aliases_lead_to_the_model(folder: Path) -> None:
    settings = load(folder, with_model(aliases=["org/m:q4", "ünï 模型"]))
    assert [settings.canonical(name) for name in ("a", "org/m:q4", "ünï 模型", "b")] == ["a", "a", "a", None]
    assert settings.model_file("org/m:q4") == folder / "models/a.gguf"


@pytest.mark.parametrize(
    ("first", "second", "path"),
    [
        (["x"], ["x"], "models.b.aliases[0]"),
        (["b"], [], "models.a.aliases[0]"),
        (["x", "x"], [], "models.a.aliases[1]"),
        ([], ["b"], "models.b.aliases[0]"),
    ],
)
def test_names_are_unique(folder: Path, first: list[str], second: list[str], path: str) -> None:
    models = {name: {"model_path": "models/a.gguf", "aliases": more} for name, more in (("a", first), ("b", second))}
    found = only(problems(folder, {"models": models}))
    assert found.path == path
    assert "already" in found.message


def test_what_is_loaded_at_start(folder: Path) -> None:
    models = {name: {"model_path": "models/a.gguf", "aliases": [f"{name}-alias"]} for name in "abc"}
    models["b"]["preload"] = True  # type: ignore[assignment]
    assert load(folder, {"models": models}).preload == ("b",)
    assert load(folder, {"models": models, "system": {"preload_models": ["c-alias", "b"]}}).preload == ("c", "b")
    assert load(folder, {"models": models, "system": {"preload_models": ["*"]}}).preload == ("a", "b", "c")


@pytest.mark.parametrize(
    ("first", "second", "path", "message"),
    [
        ({"evict_cost": -1}, {}, "models.a.evict_cost", "expected 0 or more"),
        ({"pinned": 1}, {}, "models.a.pinned", "expected true or false"),
        ({"exclusive_with": "b"}, {}, "models.a.exclusive_with", "expected a list"),
        ({"exclusive_with": ["c"]}, {}, "models.a.exclusive_with[0]", 'no such model, got "c"'),
        ({"exclusive_with": ["a-alias"]}, {}, "models.a.exclusive_with[0]", "a model cannot exclude itself"),
        ({"exclusive_with": ["b"], "pinned": True}, {"pinned": True}, "models.a.exclusive_with[0]", "both this model"),
        ({"min_replicas": -1}, {}, "models.a.min_replicas", "expected 0 or more"),
        ({"max_replicas": 0}, {}, "models.a.max_replicas", "expected 1 or more"),
        ({"max_replicas": 65}, {}, "models.a.max_replicas", "expected 64 or less"),
        ({"max_replicas": "2"}, {}, "models.a.max_replicas", "expected a whole number"),
        ({"min_replicas": 2}, {}, "models.a.min_replicas", "expected at most max_replicas (1), got 2"),
        ({"max_replica": 2}, {}, "models.a.max_replica", "unknown key"),
    ],
)
def test_what_a_model_may_say_of_others(
    folder: Path, first: dict[str, Any], second: dict[str, Any], path: str, message: str
) -> None:
    models = {
        name: {"model_path": "models/a.gguf", "aliases": [f"{name}-alias"], **more}
        for name, more in (("a", first), ("b", second))
    }
    found = only(problems(folder, {"models": models}))
    assert found.path == path
    assert found.message.startswith(message)


def test_what_a_model_excludes_is_told_by_canonical_names(folder: Path) -> None:
    models = {name: {"model_path": "models/a.gguf", "aliases": [f"{name}-alias"]} for name in "ab"}
    models["a"]["exclusive_with"] = ["b-alias"]
    settings = load(folder, {"models": models})
    assert settings.exclusive_with("a-alias") == {"b"}
    assert not settings.exclusive_with("b")


def test_offsets_that_are_left_out_keep_their_defaults(folder: Path) -> None:
    offsets = load(folder, ONE_MODEL | {"system": {"priority_offsets_sec": {"low": 120}}}).system.priority_offsets_sec
    assert (offsets.high, offsets.normal, offsets.low) == (0, 10, 120)


def test_idle_timeout_of_a_model(folder: Path) -> None:
    models = {"a": {"model_path": "models/a.gguf"}, "b": {"model_path": "models/a.gguf", "idle_timeout_sec": 1.5}}
    settings = load(folder, {"models": models})
    assert (settings.idle_timeout("a"), settings.idle_timeout("b")) == (300, 1.5)
    settings = load(folder, {"models": models, "system": {"enable_idle_timeout": False}})
    assert (settings.idle_timeout("a"), settings.idle_timeout("b")) == (None, 1.5)


TELLING_FLAGS = (
    ["-v"],
    ["--verbose"],
    ["--log-verbose"],
    ["--verbose-prompt"],
    ["--verbose_prompt"],
    ["-lv", "5"],
    ["-lv", "4", "--log-verbosity=9"],
    ["--verbosity", "x"],
)
TELLING_VARIABLES = ("LLAMA_TRACE", "LLAMA_SERVER_SLOTS_DEBUG", "llama_server_slots_n_diff")


@pytest.mark.parametrize("flags", TELLING_FLAGS)
def test_flags_that_log_prompts_need_a_word(folder: Path, flags: list[str]) -> None:
    found = only(problems(folder, with_model(flags=flags)))
    assert (found.path, "log_prompts" in found.hint) == ("models.a.flags", True)
    assert load(folder, with_model(flags=flags) | {"api": {"log_prompts": True}}).models["a"].flags == tuple(flags)


@pytest.mark.parametrize("env", [{name: "0"} for name in TELLING_VARIABLES] + [{"LLAMA_ARG_LOG_VERBOSITY": "5"}])
def test_variables_that_log_prompts_need_a_word(folder: Path, env: dict[str, str]) -> None:
    assert only(problems(folder, with_model(env=env))).path == "models.a.env"
    load(folder, with_model(env=env) | {"api": {"log_prompts": True}})


def test_a_verbosity_that_tells_no_prompts_needs_none(folder: Path) -> None:
    load(folder, with_model(flags=["-lv", "4"], env={"LLAMA_ARG_LOG_VERBOSITY": "3"}))


# Settings from Python


def test_settings_from_python_objects_get_the_same_checks(folder: Path) -> None:
    model = ModelConfig(model_path=Path("a.gguf"), flags=("-np", "2"))
    system = SystemConfig(base_models_path=Path("models"), default_parallel=3)
    settings = Settings.build(models={"a": model}, system=system, folder=folder)
    assert settings.model_file("a") == folder / "models/a.gguf"
    assert settings.state_dir == folder / ".llama-router"
    assert settings.slots("a") == parallel_slots(model, 3) == 2
    with pytest.raises(ConfigError, match="no such file"):
        Settings.build(models={"a": ModelConfig(model_path=Path("b.gguf"))}, system=system, folder=folder)


def test_settings_cannot_be_changed(folder: Path) -> None:
    settings = load(folder, ONE_MODEL)
    with pytest.raises(ValidationError):
        settings.api.port = 1
    with pytest.raises(TypeError):
        settings.models["b"] = settings.models["a"]  # type: ignore[index]


@pytest.mark.parametrize(("kind", "fault"), [("missing", "no such file"), ("folder", "is not a program"),
                                             ("data", "is not a program")])  # fmt: skip
def test_a_llama_server_that_cannot_be_run_is_refused(kind: str, fault: str, folder: Path) -> None:
    program = {"missing": folder / "none", "folder": folder, "data": folder / "models/a.gguf"}[kind]
    for document, environ, key in (
        (with_model() | {"system": {"llama_server_path": str(program)}}, {}, "system.llama_server_path"),
        (with_model(), {"LLAMA_SERVER_PATH": str(program)}, "LLAMA_SERVER_PATH"),
    ):
        with pytest.raises(ConfigError) as refused:
            load(folder, document, environ)
        assert [problem.path for problem in refused.value.problems] == [key]
        assert fault in str(refused.value)


def test_a_flag_with_its_value_in_one_element_is_refused_with_the_way_to_write_it(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r'write "-c", "4096"'):
        load(folder, with_model(flags=["-c 4096"]))
    with pytest.raises(ConfigError, match='write "4096" with quotes'):
        load(folder, with_model(flags=["-c", 4096]))
    load(folder, with_model(flags=["--chat-template", "a b c"]))


def test_what_is_wrong_with_a_known_key_is_shown(folder: Path) -> None:
    with pytest.raises(ConfigError, match='got "no"'):
        load(folder, with_model() | {"api": {"allow_unauthenticated": "no"}})


def test_a_folder_is_no_configuration_file(folder: Path) -> None:
    with pytest.raises(ConfigError, match="not a file"):
        load_settings(config_path=folder, environ={}, cwd=folder)
