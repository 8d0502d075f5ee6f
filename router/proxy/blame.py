"""Which of llama-server's own failures are the request's fault.

It answers 500 to every exception that is neither `std::invalid_argument` nor an error of its JSON library, so also to
much that only says that a body makes no sense. The message is all that tells them from a failure of the server. It has
to begin with the words: what goes wrong in the middle of the work has others in front of them (`got exception: …`).

Source: llama.cpp b11434, the functions named below; the embedded llama.cpp says the same.
"""

from __future__ import annotations

INVALID, UNSUPPORTED, TOO_LONG = "invalid_request", "unsupported_by_model", "context_length_exceeded"

_BLAMED: tuple[tuple[str, str], ...] = (
    # common/chat.cpp: common_chat_msgs_parse_oaicompat, common_chat_tools_parse_oaicompat and what follows them
    ("Failed to parse messages: ", INVALID),
    ("Failed to parse tools: ", INVALID),
    ("Failed to parse tool call arguments as JSON: ", INVALID),
    ("Cannot specify both content and content_parts", INVALID),
    ("Cannot specify grammar with tools", INVALID),
    ("Unknown reasoning format: ", INVALID),
    # server-chat.cpp: convert_anthropic_to_oai
    ("'messages' is required", INVALID),
    # server-common.cpp: oaicompat_completion_params_parse, oaicompat_chat_params_parse, handle_media
    ('"prompt" is required', INVALID),
    ("Only no echo is supported", INVALID),
    ("Unsupported param: ", INVALID),
    ("Cannot use both json_schema and grammar", INVALID),
    ("Invalid base64 value", INVALID),
    ("Failed to download image", INVALID),
    ("Failed to load image or audio file", INVALID),
    ("Failed to tokenize prompt", INVALID),
    ("Multimodal data provided, but model does not support", UNSUPPORTED),
    ("image input is not supported", UNSUPPORTED),
    ("audio input is not supported", UNSUPPORTED),
    ("video input is not supported", UNSUPPORTED),
    ("tools param requires --jinja", UNSUPPORTED),
    ("tool_choice param requires --jinja", UNSUPPORTED),
    # server-context.cpp: post_detokenize and post_tokenize look a token up that is not in the vocabulary (libstdc++)
    ("vector::_M_range_check: ", INVALID),
    # server-context.cpp: an input to embed or to rank that does not fit into one batch
    ("input (", TOO_LONG),
)


def blamed(message: str) -> str | None:
    """The code of a 500 whose request is to blame; None for a failure of the server itself."""
    return next((code for words, code in _BLAMED if message.startswith(words)), None)
