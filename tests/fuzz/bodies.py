"""Whole requests to each relayed endpoint that use as many of llama-server's fields as there are, to be spoiled."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

from tests.fuzz.exchanges import Target
from tests.fuzz.mutation import Mutator

_TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "tells the weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
_SCHEMA = {
    "type": "object",
    "properties": {
        "a": {"type": "integer", "minimum": 1, "maximum": 9},
        "b": {"type": "array", "items": {"$ref": "#/$defs/c"}, "minItems": 1, "maxItems": 2},
        "d": {"type": "string", "pattern": "^[a-z]{1,3}$"},
    },
    "required": ["a"],
    "$defs": {"c": {"enum": ["x", 1, None]}},
}
_SAMPLING: Mapping[str, Any] = {
    "temperature": 0.5, "top_k": 10, "top_p": 0.9, "min_p": 0.1, "typical_p": 1.0, "xtc_probability": 0.0,
    "repeat_last_n": 8, "repeat_penalty": 1.1, "presence_penalty": 0.1, "frequency_penalty": 0.1,
    "dry_multiplier": 0.1, "dry_base": 1.5, "dry_allowed_length": 2, "dry_sequence_breakers": ["\n"],
    "mirostat": 0, "mirostat_tau": 5.0, "seed": 1, "logit_bias": [[5, 1.0], ["Hi", False]], "ignore_eos": False,
    "samplers": ["top_k", "temperature"], "n_keep": 0, "min_keep": 0, "n_probs": 2, "stop": ["\n"],
    "cache_prompt": True, "timings_per_token": False, "lora": [], "id_slot": -1, "dynatemp_range": 0.0,
    "response_fields": ["content"], "return_tokens": False, "n_indent": 0, "t_max_predict_ms": 50,
}  # fmt: skip
_GRAMMAR = 'root ::= "a" [b-d]{1,3} other | "e"\nother ::= ("f" | "g")*\n'
_PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
_PLAIN_CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
_TOOL_CHAT = [
    {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
    {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Rome"}'}}]},
    {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
]  # fmt: skip
_MESSAGES = [{"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]}]
_ANTHROPIC_TOOL = {"name": "weather", "description": "d", "input_schema": {"type": "object", "properties": {}}}

# Documents without `model`. `max_tokens` and its kin stay out of the way of the mutations, see `BRIEF`.
BODIES: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    "/v1/chat/completions": (
        {"messages": _PLAIN_CHAT, "stream": False, **_SAMPLING},
        {"messages": _PLAIN_CHAT, "stream": True, "stream_options": {"include_usage": True}, "logprobs": True,
         "top_logprobs": 2, "n": 1, "user": "u", "service_tier": "auto", "reasoning_format": "none"},
        {"messages": _TOOL_CHAT, "tools": [_TOOL], "tool_choice": "auto", "parallel_tool_calls": True},
        {"messages": _PLAIN_CHAT, "tools": [_TOOL], "tool_choice": "required"},
        {"messages": _PLAIN_CHAT, "response_format": {"type": "json_schema", "json_schema": {"schema": _SCHEMA}}},
        {"messages": _PLAIN_CHAT, "response_format": {"type": "json_object", "schema": _SCHEMA}},
        {"messages": _PLAIN_CHAT, "grammar": _GRAMMAR, "grammar_lazy": False, "preserved_tokens": ["x"],
         "grammar_triggers": [{"type": 0, "value": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}, _PICTURE]}]},
        {"messages": _PLAIN_CHAT, "chat_template_kwargs": {"enable_thinking": False}, "add_generation_prompt": True,
         "continue_final_message": False, "thinking_budget_tokens": 5},
    ),
    "/v1/completions": (
        {"prompt": "Hi", "stream": False, "n": 1, "echo": False, "logprobs": 1, "suffix": None, **_SAMPLING},
        {"prompt": ["Hi", [1, 2, 3]], "stream": True, "json_schema": _SCHEMA},
        {"prompt": [1, "x", 2], "grammar": _GRAMMAR},
    ),
    "/completion": (
        {"prompt": {"prompt_string": "Hi", "multimodal_data": ["iVBORw0KGgo="]}, **_SAMPLING},
        {"prompt": "Hi", "json_schema": _SCHEMA, "grammar": "", "post_sampling_probs": True},
    ),
    "/v1/responses": (
        {"input": "Hi", "instructions": "Be brief.", "stream": False, "temperature": 0.5, "store": False,
         "previous_response_id": None, "text": {"format": {"type": "text"}}, "reasoning": {"effort": "low"}},
        {"input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
                   {"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{}"},
                   {"type": "function_call_output", "call_id": "c", "output": "sunny"}],
         "tools": [{"type": "function", "name": "weather", "parameters": _SCHEMA}], "stream": True},
    ),
    "/v1/messages": (
        {"messages": _MESSAGES, "system": "Be brief.", "stream": False, "stop_sequences": ["x"], "temperature": 0.5,
         "top_k": 5, "metadata": {"user_id": "u"}, "thinking": {"type": "enabled", "budget_tokens": 10}},
        {"messages": [*_MESSAGES,
                      {"role": "assistant",
                       "content": [{"type": "tool_use", "id": "t", "name": "weather", "input": {}}]},
                      {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "sunny"}]}],
         "tools": [_ANTHROPIC_TOOL], "tool_choice": {"type": "auto"}, "stream": True},
    ),
    "/v1/messages/count_tokens": ({"messages": _MESSAGES, "system": [{"type": "text", "text": "x"}]},),
    "/v1/chat/completions/input_tokens": ({"messages": _PLAIN_CHAT, "tools": [_TOOL]},),
    "/v1/responses/input_tokens": ({"input": "Hi"},),
    "/v1/chat/completions/control": ({"id": "chatcmpl-x", "action": "reasoning_end"},),
    "/infill": (
        {"input_prefix": "def f(", "input_suffix": "):", "prompt": "a",
         "input_extra": [{"filename": "a.py", "text": "x = 1"}], "temperature": 0.1},
    ),
    "/v1/embeddings": (
        {"input": ["Hi", "there"], "encoding_format": "float", "dimensions": 8},
        {"input": "Hi", "encoding_format": "base64"},
        {"input": [[1, 2], [3]]},
    ),
    "/embeddings": ({"content": "Hi", "embd_normalize": 2}, {"input": [{"prompt_string": "Hi"}]}),
    "/v1/rerank": (
        {"query": "q", "documents": ["a", "b"], "top_n": 1},
        {"query": "q", "texts": ["a", "b"], "return_text": True, "raw_scores": False},
    ),
    "/tokenize": ({"content": "Hi", "add_special": True, "parse_special": False, "with_pieces": True},
                  {"content": ["a", 1, "b"]}),
    "/detokenize": ({"tokens": [1, 2, 3]},),
    "/apply-template": ({"messages": _TOOL_CHAT, "tools": [_TOOL]},),
    "/v1/systemone": ({"input": "q", "options": ["a", "b"]},),
}  # fmt: skip
# What keeps an answer short, whatever else a body asks for.
BRIEF: Mapping[str, Mapping[str, Any]] = {
    "/v1/chat/completions": {"max_tokens": 3},
    "/v1/completions": {"max_tokens": 3},
    "/completion": {"n_predict": 3},
    "/v1/responses": {"max_output_tokens": 3},
    "/v1/messages": {"max_tokens": 3},
    "/infill": {"n_predict": 3},
}
_OF_EMBEDDINGS = frozenset(("/v1/embeddings", "/embeddings", "/v1/rerank"))
_UPLOAD = "/v1/audio/transcriptions"
_FORM = (
    b'--sep\r\ncontent-disposition: form-data; name="model"\r\n\r\nMODEL\r\n'
    b'--sep\r\ncontent-disposition: form-data; name="temperature"\r\n\r\n0.5\r\n'
    b'--sep\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\ncontent-type: audio/wav\r\n\r\n'
    b"RIFF$\x00\x00\x00WAVEfmt \x10\x00\x00\x00\r\n--sep--\r\n"
)
_FORM_TYPES = (
    *["multipart/form-data; boundary=sep"] * 8, 'multipart/form-data; boundary="sep"', "multipart/form-data",
    "multipart/form-data; boundary=", "multipart/form-data; boundary=" + "x" * 300, "text/plain", "",
)  # fmt: skip
_UPLOADS = 0.05
_NO_MODEL = 0.02  # of the requests keep whatever the mutation did to their model's name


def draw(random: Random, target: Target, *, chat: str, embed: str) -> bytes:
    """A whole request with a spoiled body.

    Args:
        chat, embed: names of the models that are asked.
    """
    if random.random() < _UPLOADS:
        form = _FORM.replace(b"MODEL", chat.encode())
        form = Mutator(random).torn(form) if random.random() < 0.8 else form
        return target.post(_UPLOAD, form, kind=random.choice(_FORM_TYPES))
    path = random.choice(tuple(BODIES))
    return target.post(path, _body(random, path, embed if path in _OF_EMBEDDINGS else chat))


def _body(random: Random, path: str, model: str) -> bytes:
    document, mutator = dict(random.choice(BODIES[path])), Mutator(random)
    if random.random() < _NO_MODEL:
        return mutator.body({"model": model, **document})
    mutant = mutator.document(document)
    if not isinstance(mutant, dict):
        return mutator.body(mutant)
    return mutator.text({"model": model, **mutant, **BRIEF.get(path, {})})
