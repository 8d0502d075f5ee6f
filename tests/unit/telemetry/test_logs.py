"""What a log line looks like, and what must not be in it."""

import io
import logging
from collections.abc import Iterator

import pytest

from router.telemetry.logs import configure_logging, forget, redact


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """Puts the loggers back that `configure_logging` changes."""
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    access = logging.getLogger("uvicorn.access")
    yield
    root.handlers[:], root.level = before
    access.disabled = False
    for name in ("httpx", "httpcore", "asyncio", "sse_starlette"):
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture
def log(restored_logging: None) -> io.StringIO:
    stream = io.StringIO()
    configure_logging("INFO", stream=stream)
    return stream


def test_one_line_with_time_level_logger_and_message(log: io.StringIO) -> None:
    logging.getLogger("router.engine").warning("model %s is %s", "qwen", "ready")
    line = log.getvalue()
    assert line.endswith("WARNING router.engine  model qwen is ready\n")
    assert line[:4].isdigit()
    assert "\x1b" not in line


def test_below_the_level_nothing_is_said(log: io.StringIO) -> None:
    logging.getLogger("router").debug("whisper")
    assert not log.getvalue()


def test_control_characters_cannot_forge_a_line(log: io.StringIO) -> None:
    logging.getLogger("router").info("a\nERROR forged\r\x1b[31m\u2028b")
    assert log.getvalue().endswith("a\\nERROR forged\\r\\x1b[31m\\u2028b\n")
    assert log.getvalue().count("\n") == 1


def test_other_scripts_are_left_alone(log: io.StringIO) -> None:
    logging.getLogger("router").info("ünï 模型")
    assert "ünï 模型" in log.getvalue()


def test_secrets_are_blotted_out_of_messages_and_tracebacks(log: io.StringIO) -> None:
    redact("s3cret-key")
    redact("s3cret-key-and-more")
    try:
        logging.getLogger("router").info("header: Bearer %s", "s3cret-key-and-more")
        try:
            int("s3cret-key")
        except ValueError:
            logging.getLogger("router").exception("failed with s3cret-key")
    finally:
        forget("s3cret-key")
        forget("s3cret-key-and-more")
    assert "s3cret" not in log.getvalue()
    assert "-and-more" not in log.getvalue()
    assert "Bearer [redacted]" in log.getvalue()
    assert "    Traceback" in log.getvalue()


def test_a_forgotten_secret_is_told_again(log: io.StringIO) -> None:
    redact("former-key")
    forget("former-key")
    logging.getLogger("router").info("former-key")
    assert "former-key" in log.getvalue()


def test_a_very_short_secret_does_not_ruin_the_log(log: io.StringIO) -> None:
    redact("a")
    redact("")
    logging.getLogger("router").info("banana")
    assert "banana" in log.getvalue()


def test_uvicorn_speaks_through_us_and_its_access_log_is_silent(log: io.StringIO) -> None:
    logging.getLogger("uvicorn").addHandler(logging.StreamHandler(io.StringIO()))
    configure_logging("INFO", stream=log)
    logging.getLogger("uvicorn.error").info("started")
    logging.getLogger("uvicorn.access").info("GET /")
    assert log.getvalue().count("uvicorn.error  started") == 1
    assert "GET /" not in log.getvalue()


def test_colour_only_on_a_terminal(restored_logging: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal = Terminal()
    configure_logging("INFO", stream=terminal)
    logging.getLogger("router").error("red")
    assert "\x1b[31mERROR" in terminal.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    plain = Terminal()
    configure_logging("INFO", stream=plain)
    logging.getLogger("router").error("plain")
    assert "\x1b" not in plain.getvalue()


def test_an_unknown_level_is_refused(restored_logging: None) -> None:
    with pytest.raises(ValueError, match="LOUD"):
        configure_logging("loud", stream=io.StringIO())


def stumble() -> None:
    try:
        "abc".index("the prompt")
    except ValueError as cause:
        raise ExceptionGroup("the prompt", [KeyError("the prompt")]) from cause


@pytest.mark.parametrize("name", ["router.api", "router.proxy.relay", "router.wire.connection", "asyncio"])
def test_errors_of_requests_are_told_without_their_messages(log: io.StringIO, name: str) -> None:
    try:
        stumble()
    except ExceptionGroup:
        logging.getLogger(name).exception("a bug")
    told = log.getvalue()
    assert "raise ExceptionGroup(" in told, "the lines of code are shown"
    assert told.replace('"the prompt"', "").count("the prompt") == 0
    assert [line.split()[0] for line in told.splitlines() if "left out" in line] == [
        "ValueError",
        "KeyError",
        "ExceptionGroup",
    ]
