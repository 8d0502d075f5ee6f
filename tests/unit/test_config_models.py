"""What a model may be called, and which flags and variables it may set."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from router.config import ModelConfig, flag_value, has_flag, parallel_slots
from router.config.flags import RULES
from router.config.names import RESERVED, RESERVED_ENDINGS, name_fault


def model(flags: list[str] | None = None, env: dict[str, str] | None = None) -> ModelConfig:
    return ModelConfig.model_validate({"model_path": "m.gguf", "flags": flags or [], "env": env or {}})


@pytest.mark.parametrize(
    "name", ["a", "qwen2.5-7b", "org/m:q4", "ünï 模型", "a/status2", "Load", "x" * 256, "-np", "50%"]
)
def test_good_names(name: str) -> None:
    assert name_fault(name) is None


@pytest.mark.parametrize(
    "name",
    ["", " a", "a ", "a,b", "a\nb", "a\u200bb", "\ud800", "x" * 257, "/a", "a/", "a//b", "a/../b", "..", "./a", "*"],
)
def test_bad_names(name: str) -> None:
    assert name_fault(name)


@pytest.mark.parametrize("name", [*RESERVED, *(f"a{ending}" for ending in RESERVED_ENDINGS)])
def test_names_of_routes(name: str) -> None:
    assert "is a route" in str(name_fault(name))


FLAGS = """
    -m --model -mu --model-url -hf -hfr --hf-repo -hff --hf-file -hft --hf-token -dr --docker-repo
    --models-dir --models-preset --models-max --models-autoload --no-models-autoload -a --alias --host --port
    --reuse-port --api-key --api-key-file --api-prefix --ssl-key-file --ssl-cert-file --tools --tools-runtime
    --mcp-servers-config --mcp-servers-json -ag --agent --ui-mcp-proxy --media-path --log-file --log-disable --no-slots
    --sleep-idle-seconds --fim-qwen-7b-default --fim-qwen-14b-spec --gpt-oss-20b-default --embd-gemma-default
    --vision-gemma-4b-default
"""
VARIABLES = """
    LLAMA_ARG_MODEL LLAMA_ARG_MODEL_URL LLAMA_ARG_DOCKER_REPO LLAMA_ARG_HF_REPO LLAMA_ARG_HF_FILE LLAMA_ARG_ALIAS
    LLAMA_ARG_HOST LLAMA_ARG_PORT LLAMA_ARG_REUSE_PORT LLAMA_ARG_API_PREFIX LLAMA_API_KEY LLAMA_ARG_API_KEY_FILE
    LLAMA_ARG_SSL_KEY_FILE LLAMA_ARG_SSL_CERT_FILE LLAMA_ARG_TOOLS LLAMA_ARG_TOOLS_RUNTIME LLAMA_ARG_AGENT
    LLAMA_ARG_MCP_SERVERS_CONFIG LLAMA_ARG_MCP_SERVERS_JSON LLAMA_ARG_UI_MCP_PROXY LLAMA_ARG_MODELS_DIR
    LLAMA_ARG_MODELS_PRESET LLAMA_ARG_MODELS_MAX LLAMA_ARG_MODELS_AUTOLOAD LLAMA_ARG_NO_MODELS_AUTOLOAD
    LLAMA_ARG_ENDPOINT_SLOTS LLAMA_ARG_NO_ENDPOINT_SLOTS LLAMA_ARG_LOG_FILE LLAMA_LOG_FILE AIP_HTTP_PORT
    LLAMA_ARG_SLEEP_IDLE_SECONDS LLAMA_ARG_N_PARALLEL LLAMA_ARG_CACHE_RAM CUDA_VISIBLE_DEVICES CUDA_DEVICE_ORDER
    cuda_visible_devices
"""


@pytest.mark.parametrize("flag", FLAGS.split())
def test_flags_of_the_router_are_refused_in_every_spelling(flag: str) -> None:
    underscored = flag[:2] + flag[2:].replace("-", "_")
    for spelling in (flag, f"{flag}=x", f"{flag} x", underscored, f"{underscored}=x"):
        with pytest.raises(ValidationError, match="belongs to the router") as caught:
            model(["-c", "4096", spelling])
        assert caught.value.errors()[0]["loc"] == ("flags", 2)


@pytest.mark.parametrize(
    "variable",
    VARIABLES.split(),
)
def test_variables_of_the_router_are_refused(variable: str) -> None:
    with pytest.raises(ValidationError, match="belongs to the router"):
        model(env={variable: "1"})


@pytest.mark.parametrize(
    "flags",
    [
        [
            "-c",
            "4096",
            "-ngl",
            "99",
            "-fa",
            "on",
            "--jinja",
            "--embedding",
            "--pooling",
            "mean",
            "--metrics",
            "--slots",
        ],
        [
            "--model-draft",
            "d.gguf",
            "-md",
            "d.gguf",
            "--spec-draft-model",
            "d.gguf",
            "--mmproj",
            "p.gguf",
            "--lora",
            "l",
        ],
        ["-hfd", "org/draft", "--log-jsonl", "-lv", "4", "--props", "--spec-default", "-mg", "0", "-mm", "p"],
        ["--temp", "-1", "--chat-template-kwargs", '{"a": "--host"}', "--override-kv", "a=int:1", ""],
    ],
)
def test_ordinary_flags_are_handed_over_as_they_are(flags: list[str]) -> None:
    assert model(flags).flags == tuple(flags)


def test_ordinary_variables_are_handed_over_as_they_are() -> None:
    env = {"HF_TOKEN": "x", "GGML_CUDA_ENABLE_UNIFIED_MEMORY": "1", "LLAMA_ARG_THREADS": "1", "EMPTY": ""}
    assert model(env=env).env == env


@pytest.mark.parametrize("env", [{"": "x"}, {"A=B": "x"}, {"A": "x\0"}, {"A\0": "x"}, {"A": "\ud800"}])
def test_variables_that_no_process_can_have(env: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        model(env=env)


def test_every_rule_says_what_to_do_instead() -> None:
    assert all(rule.why and (rule.flags or rule.variables) for rule in RULES)


@pytest.mark.parametrize(
    ("flags", "value"),
    [
        (["-c", "1"], "1"),
        (["--ctx-size", "1"], "1"),
        (["--ctx-size=1"], "1"),
        (["--ctx_size", "1"], "1"),
        (["-c", "1", "--ctx-size=2"], "2"),
        (["--ctx-size=2", "-c", "1"], "1"),
        (["-cb", "1"], None),
        (["-c"], None),
        (["--ctx-size="], ""),
        ([], None),
    ],
)
def test_flag_value(flags: list[str], value: str | None) -> None:
    assert flag_value(flags, "-c", "--ctx-size") == value


def test_has_flag() -> None:
    assert has_flag(["--jinja"], "--jinja")
    assert has_flag(["--cache_ram=1"], "-cram", "--cache-ram")
    assert not has_flag(["--no-jinja"], "--jinja")


@pytest.mark.parametrize(
    ("flags", "slots"),
    [
        ([], 3),
        (["-np", "2"], 2),
        (["--parallel", "4"], 4),
        (["--parallel=5"], 5),
        (["-np=6"], 6),
        (["-np", "1", "--parallel", "7"], 7),
    ],
)
def test_parallel_slots(flags: list[str], slots: int) -> None:
    assert parallel_slots(model(flags), 3) == slots


@pytest.mark.parametrize("flags", [["-np"], ["-np", "0"], ["-np", "-1"], ["--parallel=auto"], ["-np", "1.5"]])
def test_a_number_of_slots_that_is_none(flags: list[str]) -> None:
    with pytest.raises(ValidationError, match="whole number from 1"):
        model(flags)


def test_a_model_is_built_from_python_objects() -> None:
    built = ModelConfig(model_path=Path("m.gguf"), flags=("-c", "1"), env={"A": "1"}, aliases=("b",))
    assert (built.idle_timeout_sec, built.preload) == (None, False)
