"""The command line of the embedded llama.cpp, read the way llama-server reads its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import xllamacpp

from router.backends.embedded import help_text, parse
from router.backends.embedded_flags import BadCommandLine
from router.backends.embedded_table import SECTIONS

FLAGS = [flag for flags in SECTIONS.values() for flag in flags]
MODEL = ["-m", "model.gguf"]


def parsed(*argv: str, **environ: str) -> Any:
    return parse([*MODEL, *argv], environ)


def value(params: Any, path: str) -> Any:
    for name in path.split("."):
        params = getattr(params, name)
    return params


def test_defaults_are_those_of_llama_server() -> None:
    params = parsed()
    assert params.model.path == "model.gguf"
    assert (params.port, params.hostnames) == (8080, ["127.0.0.1"])
    assert (params.n_ctx, params.n_parallel, params.cache_ram_mib) == (0, -1, 8192)
    assert params.endpoint_slots
    assert not params.endpoint_metrics
    assert params.api_keys == []


@pytest.mark.parametrize(
    ("argv", "path", "expected"),
    [
        (["-c", "512"], "n_ctx", 512),
        (["--ctx-size=512"], "n_ctx", 512),
        (["--ctx_size", "512"], "n_ctx", 512),
        (["-c", "1", "-c", "2"], "n_ctx", 2),
        (["-c", "0"], "fit_params_min_ctx", -1),
        (["-np", "3"], "n_parallel", 3),
        (["-ngl", "all"], "n_gpu_layers", -2),
        (["--gpu-layers", "auto"], "n_gpu_layers", -1),
        (["--n-gpu-layers=7"], "n_gpu_layers", 7),
        (["-b", "64", "-ub", "32"], "n_ubatch", 32),
        (["-t", "3"], "cpuparams.n_threads", 3),
        (["-t", "0"], "cpuparams.n_threads", os.cpu_count()),
        (["-tb", "2"], "cpuparams_batch.n_threads", 2),
        (["-fa", "on"], "flash_attn_type", xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED),
        (["-fa", "off"], "flash_attn_type", xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED),
        (["-ctk", "q8_0"], "cache_type_k", xllamacpp.ggml_type.GGML_TYPE_Q8_0),
        (["-ctv", "iq4_nl"], "cache_type_v", xllamacpp.ggml_type.GGML_TYPE_IQ4_NL),
        (["--no-mmap"], "load_mode", xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_NONE),
        (["--mlock"], "load_mode", xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_MMAP_MLOCK),
        (["--mlock", "--no-mmap"], "load_mode", xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_MLOCK),
        (["--no-mmap", "--mlock"], "load_mode", xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_MLOCK),
        (["-lm", "dio"], "load_mode", xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_DIRECT_IO),
        (["-cram", "0"], "cache_ram_mib", 0),
        (["-no-kvu"], "kv_unified", False),
        (["-kvu"], "kv_unified", True),
        (["--no-slots"], "endpoint_slots", False),
        (["--metrics"], "endpoint_metrics", True),
        (["--embeddings"], "embedding", True),
        (["--pooling", "cls"], "pooling_type", xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_CLS),
        (["--rerank"], "embedding", True),
        (["--reranking"], "pooling_type", xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK),
        (["--no-jinja"], "use_jinja", False),
        (["--fit", "off"], "fit_params", False),
        (["--no-kv-offload"], "no_kv_offload", True),
        (["-a", "a, b/c:d"], "model_alias", {"a", "b/c:d"}),
        (["--host", "127.0.0.1,::1"], "hostnames", ["127.0.0.1", "::1"]),
        (["--api-key", "one,two", "--api-key", "three"], "api_keys", ["one", "two", "three"]),
        (["-to", "5"], "timeout_write", 5),
        (["-s", "7"], "sampling.seed", 7),
        (["-s", "-1"], "sampling.seed", 2**32 - 1),
        (["-lv", "4"], "verbosity", 4),
        (["--log-jsonl"], "log_json", True),
        (["-ncmoe", "1"], "tensor_buft_overrides", r"blk\.0\.ffn_(up|down|gate|gate_up)_(ch|)exps=CPU"),
        (["-md", "draft.gguf"], "speculative.draft.mparams.path", "draft.gguf"),
    ],
)
def test_flag(argv: list[str], path: str, expected: object) -> None:
    assert value(parsed(*argv), path) == expected


def test_lists_keep_their_length() -> None:
    params = parsed("-ts", "3,1", "--fit-target", "256")
    assert params.tensor_split[:3] == [3.0, 1.0, 0.0]
    assert set(params.fit_params_target) == {256 * 1024 * 1024}


def test_loras_add_up() -> None:
    params = parsed("--lora", "a.gguf,b.gguf", "--lora-scaled", "c.gguf:0.5")
    assert [(lora.path, lora.scale) for lora in params.lora_adapters] == [
        ("a.gguf", 1.0),
        ("b.gguf", 1.0),
        ("c.gguf", 0.5),
    ]


def test_files_and_folders(tmp_path: Path) -> None:
    keys, template = tmp_path / "keys", tmp_path / "template"
    keys.write_text("# comment\none\n\ntwo\n")
    template.write_text("{{ messages }}")
    params = parsed(
        "--api-key-file", str(keys), "--chat-template-file", str(template), "--slot-save-path", str(tmp_path)
    )
    assert params.api_keys == ["one", "two"]
    assert params.chat_template == "{{ messages }}"
    assert params.slot_save_path == f"{tmp_path}/"


def test_chat_template_kwargs_are_json() -> None:
    params = parsed("--chat-template-kwargs", '{"enable_thinking": false}', "--reasoning", "on")
    assert params.default_template_kwargs == {"preserve_reasoning": "true", "enable_thinking": "true"}


def test_user_sampling_outranks_the_model() -> None:
    bits = xllamacpp.common_params_sampling_config
    params = parsed("--temp", "0", "--top-k", "1")
    assert params.sampling.user_sampling_config == (
        bits.COMMON_PARAMS_SAMPLING_CONFIG_TEMP | bits.COMMON_PARAMS_SAMPLING_CONFIG_TOP_K
    )


class TestEnvironment:
    def test_it_is_read(self) -> None:
        params = parse([], {"LLAMA_ARG_MODEL": "m.gguf", "LLAMA_API_KEY": "secret", "LLAMA_ARG_CTX_SIZE": "64"})
        assert (params.model.path, params.api_keys, params.n_ctx) == ("m.gguf", ["secret"], 64)

    def test_the_command_line_comes_after_it(self) -> None:
        assert parsed("-c", "128", LLAMA_ARG_CTX_SIZE="64").n_ctx == 128

    @pytest.mark.parametrize(("word", "expected"), [("1", True), ("on", True), ("0", False), ("off", False)])
    def test_switches_and_toggles(self, word: str, expected: bool) -> None:
        params = parsed(LLAMA_ARG_ENDPOINT_METRICS=word, LLAMA_ARG_ENDPOINT_SLOTS=word)
        assert (params.endpoint_metrics, params.endpoint_slots) == (expected, expected)

    def test_the_negative_variable_needs_no_value(self) -> None:
        assert not parsed(LLAMA_ARG_NO_JINJA="").use_jinja

    def test_a_bad_value_names_the_variable(self) -> None:
        with pytest.raises(BadCommandLine, match='environment variable "LLAMA_ARG_PORT": expected a whole number'):
            parsed(LLAMA_ARG_PORT="web")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--frobnicate"], "invalid argument: --frobnicate"),
        (["--metric"], r"invalid argument: --metric \(did you mean --metrics\?\)"),
        (["stray"], "invalid argument: stray"),
        (["-c"], '"-c": expected value for argument'),
        (["-c", "many"], "\"-c\": expected a whole number, not 'many'"),
        (["-c", str(2**40)], '"-c": .*'),
        (["-np", "0"], '"-np": expected a number of slots'),
        (["--port", "70000"], "expected 0 to 65535"),
        (["-fa", "maybe"], '"-fa": expected one of'),
        (["-ctk", "q3_k"], "expected one of f32, f16"),
        (["--pooling", "max"], "expected one of none, mean"),
        (["--metrics=1"], '"--metrics": it takes no value'),
        (["--slot-save-path", "/nonexistent"], "not a directory"),
        (["--chat-template-file", "/nonexistent"], "failed to read the file"),
        (["--chat-template-kwargs", "[]"], "expected a JSON object"),
        (["--sleep-idle-seconds", "0"], "expected -1, or more than 0"),
        (["--lora-scaled", "a.gguf"], "expected FNAME:SCALE"),
        (["-ts", ",".join(["1"] * 200)], "expected 1 to"),
        (["--spec-type", "magic"], "expected one of none, draft-simple"),
    ],
)
def test_refused(argv: list[str], message: str) -> None:
    with pytest.raises(BadCommandLine, match=message):
        parsed(*argv)


def test_a_model_is_required() -> None:
    with pytest.raises(BadCommandLine, match="--model is required"):
        parse(["--port", "1"], {})


def test_a_key_is_never_repeated_in_an_error() -> None:
    with pytest.raises(BadCommandLine) as caught:
        parsed("--api-keys=hunter2")
    assert "hunter2" not in str(caught.value)


def test_no_spelling_or_variable_is_taken_twice() -> None:
    spellings = [name for flag in FLAGS for name in (*flag.names, *flag.off)]
    variables = [flag.env for flag in FLAGS if flag.env]
    assert len(set(spellings)) == len(spellings)
    assert len(set(variables)) == len(variables)


def test_help_names_every_flag_in_llama_servers_layout() -> None:
    text = help_text()
    assert text.startswith(
        "----- common params -----\n\n-h,    --help, --usage                  print usage and exit\n"
    )
    assert "-c,    --ctx-size N" in text
    assert "(env: LLAMA_API_KEY)" in text
    for flag in FLAGS:
        assert all(name in text for name in (*flag.names, *flag.off))
