"""llama-server's flags: reading them, and those that a model's configuration may not set.

Spellings and variables were read in `common/arg.cpp` of llama.cpp b11434. Like llama-server, `_` in a long flag reads
as `-` and the last occurrence wins. The `=` form is understood too, so that none slips through by its spelling.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

PARALLEL_FLAGS = ("-np", "--parallel")
PROJECTOR_FLAGS = ("-mm", "--mmproj", "-mmu", "--mmproj-url")
PROJECTOR_VARIABLE = "LLAMA_ARG_MMPROJ"  # and, with more behind it, the address of one
EMBEDDING_FLAGS = ("--embedding", "--embeddings", "--rerank", "--reranking")


@dataclass(frozen=True, slots=True)
class Rule:
    """Flags and variables of the same purpose that belong to the router.

    Attributes:
        flags: spellings; `*` stands for any ending.
        variables: their forms in the environment of the child; `*` likewise.
        why: what the router does about them, or what to write instead.
    """

    flags: tuple[str, ...]
    variables: tuple[str, ...]
    why: str


RULES = (
    Rule(("-m", "--model"), ("LLAMA_ARG_MODEL",), "write the file as model_path"),
    Rule(
        ("-mu", "--model-*", "-hf", "-hfr", "--hf-repo", "-hff", "--hf-file", "-dr", "--docker-repo"),
        ("LLAMA_ARG_MODEL_URL", "LLAMA_ARG_HF_REPO", "LLAMA_ARG_HF_FILE", "LLAMA_ARG_DOCKER_REPO"),
        "download the model first, then write the file as model_path",
    ),
    Rule(
        ("--embd-*-default", "--fim-*-default", "--fim-*-spec", "--gpt-oss-*-default", "--vision-*-default"),
        (),
        "it names a model and a port; write the file as model_path and the settings as flags of their own",
    ),
    Rule(("-hft", "--hf-token"), (), "a command line is no place for a secret; write HF_TOKEN in env"),
    Rule(
        ("--models-*", "--no-models-*"),
        ("LLAMA_ARG_MODELS_*", "LLAMA_ARG_NO_MODELS_*", "LLAMA_SERVER_ROUTER_PORT", "LLAMA_SERVER_CHILD_MODE"),
        "one llama-server serves one model here; write each as an entry of models",
    ),
    Rule(("-a", "--alias"), ("LLAMA_ARG_ALIAS",), "the key in models is the name; write further ones in aliases"),
    Rule(
        ("--host", "--port", "--reuse-port"),
        ("LLAMA_ARG_HOST", "LLAMA_ARG_PORT", "LLAMA_ARG_REUSE_PORT", "AIP_*"),
        "the router gives every child a loopback port; system.base_port says from where upward",
    ),
    Rule(
        ("--api-key", "--api-key-file"),
        ("LLAMA_API_KEY", "LLAMA_ARG_API_KEY_FILE"),
        "the router gives every child a random key; the one for clients is API_KEY in the router's environment",
    ),
    Rule(("--api-prefix",), ("LLAMA_ARG_API_PREFIX",), "the router talks to the child without a prefix"),
    Rule(("--ssl-*",), ("LLAMA_ARG_SSL_*",), "the child listens on loopback only; put TLS in front of the router"),
    Rule(
        ("--tools", "--tools-*", "--mcp-servers-*", "-ag", "--agent", "--ui-mcp-proxy", "--webui-mcp-proxy"),
        (
            "LLAMA_ARG_TOOLS",
            "LLAMA_ARG_TOOLS_*",
            "LLAMA_ARG_MCP_SERVERS_*",
            "LLAMA_ARG_AGENT",
            "LLAMA_ARG_UI_MCP_PROXY",
        ),
        "it would let clients run commands or reach other hosts from this machine",
    ),
    Rule(("--media-path",), (), "it would let clients have files of this machine read; they send media themselves"),
    Rule(
        ("--log-file", "--log-disable"),
        ("LLAMA_ARG_LOG_FILE", "LLAMA_LOG_FILE"),
        "the router keeps the log of every child below state_dir",
    ),
    Rule(
        ("--no-slots",),
        ("LLAMA_ARG_ENDPOINT_SLOTS", "LLAMA_ARG_NO_ENDPOINT_SLOTS", "LLAMA_ARG_NO_SLOTS"),
        "the router watches the slots for progress",
    ),
    Rule(
        ("--sleep-idle-seconds",),
        ("LLAMA_ARG_SLEEP_IDLE_SECONDS",),
        "the router unloads idle models; write idle_timeout_sec",
    ),
    Rule((), ("LLAMA_ARG_N_PARALLEL",), "the router always passes -np; write it in flags"),
    Rule((), ("LLAMA_ARG_CACHE_RAM",), "the router always passes --cache-ram; write it in flags"),
    Rule((), ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"), "write the devices as system.gpu_devices"),
)

# They make llama-server write prompts and answers into its log, or show them to whoever reads `/slots`.
_TELLING_FLAGS = ("-v", "--verbose", "--log-verbose", "--verbose-prompt")
_TELLING_VARIABLES = ("LLAMA_SERVER_SLOTS_DEBUG", "LLAMA_SERVER_SLOTS_N_DIFF", "LLAMA_TRACE")
_VERBOSITY = (("-lv", "--verbosity", "--log-verbosity"), "LLAMA_ARG_LOG_VERBOSITY")
_MOST_DISCREET = 4  # `trace`; 5 is `debug`

# `--model-*` means the model itself; the draft model of speculative decoding is an ordinary flag.
_NOT_OWNED = ("--model-draft",)


def flag_name(argument: str) -> str:
    """The flag that one argument spells: without an attached value, long names with `-` for `_`."""
    name = re.split(r"[=\s]", argument, maxsplit=1)[0]
    return name.replace("_", "-") if name.startswith("--") else name


def owned_flag(argument: str) -> Rule | None:
    """The rule that forbids this argument, if any."""
    name = flag_name(argument)
    if name in _NOT_OWNED:
        return None
    return next((rule for rule in RULES if any(fnmatchcase(name, flag) for flag in rule.flags)), None)


def owned_variable(name: str) -> Rule | None:
    """The rule that forbids this environment variable of a child, if any. Case is ignored, as on Windows."""
    name = name.upper()
    return next((rule for rule in RULES if any(fnmatchcase(name, one) for one in rule.variables)), None)


def telling_flag(flags: Sequence[str]) -> str | None:
    """The flag among these by which llama-server would log what it is asked, if any."""
    for name in _TELLING_FLAGS:
        if has_flag(flags, name):
            return name
    value = flag_value(flags, *_VERBOSITY[0])
    return None if value is None or _is_discreet(value) else f"a verbosity of {value}"


def telling_variable(env: Mapping[str, str]) -> str | None:
    """The variable among these that would do the same, if any."""
    for name, value in env.items():
        if name.upper() in _TELLING_VARIABLES or (name.upper() == _VERBOSITY[1] and not _is_discreet(value)):
            return name
    return None


def _is_discreet(verbosity: str) -> bool:
    return verbosity.strip().isdecimal() and int(verbosity) <= _MOST_DISCREET


def flag_value(flags: Sequence[str], *names: str) -> str | None:
    """The value that llama-server would use for a flag known by these names; None when it is not there.

    Args:
        flags: a model's flags, each an element of its own: `["-c", "4096"]`; `["--ctx-size=4096"]` is understood too.
        names: all spellings, e.g. `"-c", "--ctx-size"`.
    """
    value: str | None = None
    for position in _positions(flags, names):
        _, equals, attached = flags[position].partition("=")
        if equals:
            value = attached
        elif position + 1 < len(flags):
            value = flags[position + 1]
    return value


def has_flag(flags: Sequence[str], *names: str) -> bool:
    """Whether a flag known by these names is there, with or without a value."""
    return any(True for _ in _positions(flags, names))


def _positions(flags: Sequence[str], names: Sequence[str]) -> Iterator[int]:
    return (position for position, flag in enumerate(flags) if flag_name(flag) in names)
