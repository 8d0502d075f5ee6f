"""A llama-server without a model, that misbehaves on demand. Standard library only; run it as a program.

It takes llama-server's flags (those it does not know are ignored) and answers like build b11434: 503 on every path
while it loads, 401 without the key of `LLAMA_API_KEY`, SSE with a role chunk, one chunk per token, a usage chunk on
request and `[DONE]`; it closes the connection after a stream while it advertises keep-alive. Full slots queue FIFO; a
client that leaves frees its slot. SIGTERM ends it with code 0 once loaded, by the signal before.

Misbehaviour comes from flags (they may stand among a model's `flags`) or from the environment: `--ready-after 2` is
`FAKE_READY_AFTER=2`, a switch is set by `=1`. Text for the log goes to stderr.

    --ready-after S          ready S seconds after start   --never-ready           load for ever
    --exit-code N            end with N while loading      --exit-message TEXT     ... saying this on stderr
    --oom-once FILE          run out of memory, once       --allocated             say that all is allocated
    --exit-after S           exit S seconds after ready    --lose-port             say the port is taken, and end
    --ignore-term            ignore SIGTERM                --fork-grandchild       `sleep` in the same process group
    --setsid                 ... in a session of its own
    --stderr-flood MIB       write so much to stderr       --long-line KIB         one line of this length
    --print-key              print the API key             --ignore-key            serve whoever asks
    --hang-health            accept /health, never answer  --token-delay S         between two tokens
    --prefill-delay S        before the first token        --tokens N              when the request sets no limit
    --crash-after-tokens N   SIGKILL itself in an answer   --stall-after-tokens N  stop producing, stay healthy
    --bad-chunking, --bad-sse, --bad-head  send nonsense  --status N              answer generations with this status
    --huge-event KIB         an event of this length      --crash-on TEXT          SIGKILL itself at such a prompt
    --crash-after-bytes N    SIGKILL itself in an answer   --crash-at-load         SIGKILL itself while loading
    --close-after-bytes N    end the connection there      --reset-after-bytes N   ... by a reset
    --reset-reused           reset at a second request     --hang                  accept everything, answer nothing
    --prompt-ms MS           tell of so long prompts       --slot-bytes N          bytes of a saved slot, a token each
    --slot-trouble DIR       a file in there is named after what goes wrong with saved slots. refuse: there are none;
                             hang: no answer; crash: at a restore; short: less is written than told; forget: nothing
                             is restored; vain: nothing is found in what was restored; shorten: contexts of half
                             the length

All of them can be switched while it runs, through the control port that `--control PATH` names (`llama_control`).
`GET /fake/process` tells pid, argv, environment, working directory, stdin and process group; `GET /fake/requests` tells
the generations in the order in which they were started, each with its last message or prompt.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import struct
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.fakes.llama_control import ControlPort
from tests.fakes.llama_faults import (
    GARBLED,
    NO_HTTP,
    FaultyWriter,
    crash,
    flood,
    fork,
    refuse_port,
    reset,
    say,
    switched_off,
)
from tests.fakes.llama_http import Request, Writer, read_request, send, send_chunk, send_event, send_json
from tests.fakes.llama_process import age, describe_process
from tests.fakes.llama_words import (
    LOADING,
    NO_KEY,
    UNKNOWN,
    VERSION,
    WHEN_NONE_IS_ASKED,
    Slot,
    chat_chunks,
    embeddings_of,
    last_text,
    metrics_page,
    prefill,
    prompt_of,
    shared,
    text_chunks,
    usage_of,
    whole_answer,
)


def option_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    parser.add_argument("-m", "--model", default="")
    parser.add_argument("-a", "--alias", default="fake")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("-np", "--parallel", type=int, default=4)
    parser.add_argument("-c", "--ctx-size", type=int, default=4096)
    parser.add_argument("-cram", "--cache-ram", type=int, default=8192)
    for name in ("metrics", "slots", "no-webui", "no-ui", "embedding", "jinja", "log-jsonl"):
        parser.add_argument(f"--{name}", action="store_true")
    for name in ("never-ready", "lose-port", "ignore-term", "fork-grandchild", "setsid", "print-key", "ignore-key",
                 "hang-health",
                 "bad-sse", "bad-chunking", "bad-head", "crash-at-load", "reset-reused", "hang",
                 "allocated"):  # fmt: skip
        parser.add_argument(f"--{name}", action="store_true", default=_environ(name) == "1")
    for name in ("ready-after", "token-delay", "prefill-delay", "exit-after", "prompt-ms"):
        parser.add_argument(f"--{name}", type=float, default=float(_environ(name) or 0))
    for name in ("exit-code", "stderr-flood", "long-line", "tokens", "crash-after-tokens", "stall-after-tokens",
                 "status", "crash-after-bytes", "close-after-bytes", "reset-after-bytes", "huge-event"):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=int(_environ(name)) if _environ(name) else None)
    for name in ("exit-message", "oom-once", "crash-on", "control"):
        parser.add_argument(f"--{name}", default=_environ(name))
    parser.add_argument("--slot-save-path", default="")
    parser.add_argument("--slot-bytes", type=int, default=4)
    parser.add_argument("--slot-trouble", type=Path)
    return parser


def _environ(name: str) -> str:
    return os.environ.get("FAKE_" + name.upper().replace("-", "_"), "")


class FakeServer:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.key = os.environ.get("LLAMA_API_KEY", "")
        self.loaded = asyncio.Event()
        self.slots = [Slot(number) for number in range(options.parallel)]
        self.free = asyncio.Semaphore(options.parallel)
        self.started: list[dict[str, Any]] = []
        self.waiting = 0
        self.tokens_predicted = 0
        self.tokens_read = 0
        self.tokens_cached = 0
        self.aside: list[bytes] = []

    async def run(self) -> None:
        options = self.options
        if options.lose_port:
            refuse_port(options)
        control = ControlPort(options)
        if options.control:
            await control.open()
        try:
            server = await asyncio.start_server(self._connection, options.host, options.port)
        except OSError:
            refuse_port(options)
        await self._load()
        if not options.ignore_term:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, os._exit, 0)
        self.loaded.set()
        say("main: model loaded")
        say(f"main: server is listening on http://{options.host}:{server.sockets[0].getsockname()[1]}")
        if options.exit_after:
            await asyncio.sleep(options.exit_after)
            os._exit(options.exit_code or 0)
        await server.serve_forever()

    async def _load(self) -> None:
        options = self.options
        say("main: loading model")
        if options.print_key:
            say(f"the key is {self.key}, Bearer {self.key}")
        if options.long_line:
            say("x" * options.long_line * 1024)
        if options.stderr_flood:
            flood(options.stderr_flood)
        if options.fork_grandchild:
            fork(own_session=options.setsid)
        if options.oom_once and not os.path.exists(options.oom_once):  # noqa: ASYNC240, PTH110  a program of its own
            with open(options.oom_once, "w"):  # noqa: ASYNC230, PTH123
                say("alloc_tensor_range: failed to allocate CPU buffer of size 1048576")
            os._exit(1)
        if options.allocated:
            say("cmn          init: llama threadpool init, n_threads = 1")
        await switched_off(lambda: options.never_ready)
        await asyncio.sleep(options.ready_after - age())
        if options.crash_at_load:
            crash()
        if options.exit_code is not None and not options.exit_after:
            say(options.exit_message or "llama_model_load: error loading model: fake trouble")
            say("main: exiting due to model loading error")
            os._exit(options.exit_code)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reused = False
        try:
            while (request := await read_request(reader)) is not None:
                if reused and self.options.reset_reused:
                    reset(writer)
                    break
                reused = True
                answering = asyncio.create_task(self._respond(request, writer))
                while not answering.done():
                    await asyncio.wait({answering}, timeout=0.02)
                    if reader.at_eof():
                        answering.cancel()
                if answering.cancelled() or not answering.result():
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _respond(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        """Answer; False when the connection ends with it."""
        path = request.path.partition("?")[0]
        await switched_off(lambda: self.options.hang or (self.options.hang_health and path.endswith("/health")))
        if not self.loaded.is_set():
            return await send_json(writer, 503, LOADING)
        if path in {"/health", "/v1/health"}:
            return await send_json(writer, 200, {"status": "ok"})
        if not self._may_enter(request):
            return await send_json(writer, 401, NO_KEY)
        if request.method == "GET":
            return await self._get(path, writer)
        return await self._post(path, request, writer)

    def _may_enter(self, request: Request) -> bool:
        if not self.key or self.options.ignore_key:
            return True
        given = request.headers.get("authorization", "").removeprefix("Bearer ") or request.headers.get("x-api-key", "")
        return given == self.key

    async def _get(self, path: str, writer: asyncio.StreamWriter) -> bool:
        options = self.options
        if path == "/metrics" and options.metrics:
            return await send(writer, 200, "text/plain; version=0.0.4", self._metrics().encode())
        answers: dict[str, Any] = {
            "/props": {"total_slots": options.parallel, "model_alias": options.alias, "model_path": options.model,
                       "default_generation_settings": {"n_ctx": options.ctx_size}},
            "/slots": [self._slot(slot) for slot in self.slots],
            "/v1/models": {"object": "list", "data": [{"id": options.alias, "object": "model"}]},
            "/fake/process": describe_process(),
            "/fake/requests": self.started,
        }  # fmt: skip
        return await send_json(writer, 200, answers[path]) if path in answers else await send_json(writer, 404, UNKNOWN)

    async def _post(self, path: str, request: Request, writer: asyncio.StreamWriter) -> bool:
        try:
            if path in {"/v1/chat/completions", "/v1/completions"}:
                return await self._generate(request, FaultyWriter(writer, self.options), chat="chat" in path)
            return await self._compute(path, request, writer)
        except (TypeError, ValueError, AttributeError, LookupError) as error:  # a body that makes no sense
            return await send_json(writer, 400, {"error": {"code": 400, "message": str(error)}})

    async def _compute(self, path: str, request: Request, writer: asyncio.StreamWriter) -> bool:
        if path in {"/v1/embeddings", "/embeddings", "/embedding"}:
            return await send_json(
                writer,
                200,
                embeddings_of(self.options.alias, request.json.get("input", request.json.get("content", ""))),
            )
        if path == "/completion":
            slot = self.slots[request.json["id_slot"]]
            self.aside.append(slot.memory)
            slot.memory, slot.prompt, slot.task = b"", 0, len(self.started)
            self.started.append({"task": slot.task, "slot": slot.id, "text": ""})
            return await send_json(writer, 200, {"content": ""})
        if path.startswith("/slots/"):
            return await self._move_slot(path, request, writer)
        if path == "/tokenize":
            return await send_json(writer, 200, {"tokens": list(request.json.get("content", "").encode())})
        return await send_json(writer, 404, UNKNOWN)

    async def _move_slot(self, path: str, request: Request, writer: asyncio.StreamWriter) -> bool:
        trouble, action = self._slot_trouble(), request.path.partition("action=")[2]
        if trouble == "refuse" or not self.options.slot_save_path:
            error = {"code": 501, "message": "This server does not support slots action", "type": "not_supported_error"}
            return await send_json(writer, 501, {"error": error})
        if trouble == "hang":
            await asyncio.Event().wait()
        slot = self.slots[int(path.rpartition("/")[2])]
        file = Path(self.options.slot_save_path, request.json["filename"])
        if action == "save":
            return await send_json(writer, 200, self._save(slot, file) | {"n_saved": len(slot.memory)})
        if trouble == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        written = file.read_bytes()  # noqa: ASYNC240  a badly behaved program
        count = struct.unpack_from("<I", written, 8)[0]
        slot.memory = b"" if trouble == "forget" else bytes(struct.unpack_from(f"<{count}I", written, 12))
        slot.prompt = len(slot.memory)
        return await send_json(writer, 200, {"n_restored": len(slot.memory), "n_read": len(written)})

    def _slot_trouble(self) -> str:
        folder = self.options.slot_trouble
        return next((file.name for file in folder.iterdir()), "") if folder is not None else ""

    def _save(self, slot: Slot, file: Path) -> dict[str, int]:
        """As llama.cpp does: magic, version, the number of tokens, the tokens, and what they stand for."""
        tokens = slot.memory
        head = struct.pack(f"<4sII{len(tokens)}I", b"qsgg", 2, len(tokens), *tokens)
        written = head + bytes((self.options.slot_bytes - 4) * len(tokens))
        file.write_bytes(written[: len(written) // 2] if self._slot_trouble() == "short" else written)
        return {"n_written": len(written)}

    def _read(self, slot: Slot, prompt: bytes) -> None:
        """Have the slot take in a prompt: what it shares with its memory is found there."""
        found = max(shared(memory, prompt) for memory in (slot.memory, *self.aside))
        found = 0 if self._slot_trouble() == "vain" else found
        self.tokens_cached += found
        self.tokens_read += len(prompt) - found
        slot.memory, slot.prompt = prompt, len(prompt)

    def _slot(self, slot: Slot) -> dict[str, Any]:
        context = self.options.ctx_size // (2 if self._slot_trouble() == "shorten" else 1)
        answer: dict[str, Any] = {"id": slot.id, "n_ctx": context, "is_processing": slot.busy}
        if slot.task >= 0:
            answer |= {"id_task": slot.task, "n_prompt_tokens": slot.prompt,
                       "n_prompt_tokens_processed": round(slot.prompt * slot.read),
                       "next_token": [{"has_next_token": slot.busy, "n_decoded": slot.decoded}]}  # fmt: skip
        return answer

    def _metrics(self) -> str:
        return metrics_page(
            read=self.tokens_read,
            cached=self.tokens_cached,
            seconds=self.tokens_read * self.options.prompt_ms / 1000,
            predicted=self.tokens_predicted,
            busy=sum(slot.busy for slot in self.slots),
            waiting=self.waiting,
        )

    @contextlib.asynccontextmanager
    async def _slot_for(self, request: Request) -> AsyncIterator[Slot]:
        prompt, said = prompt_of(request.json), last_text(request.json)
        self.waiting += 1
        try:
            await self.free.acquire()
        finally:
            self.waiting -= 1
        idle = [slot for slot in self.slots if not slot.busy]
        slot = max(idle, key=lambda slot: (shared(slot.memory, prompt), -slot.task))
        slot.busy, slot.decoded, slot.task = True, 0, len(self.started)
        self._read(slot, prompt)
        self.started.append({"task": slot.task, "slot": slot.id, "text": said})
        try:
            yield slot
        finally:
            slot.busy = False
            self.free.release()

    async def _generate(self, request: Request, writer: Writer, *, chat: bool) -> bool:
        if self.options.crash_on and self.options.crash_on.encode() in request.body:
            crash()
        if self.options.bad_head:
            writer.write(NO_HTTP)
            return False
        if self.options.status is not None:
            error = {"code": self.options.status, "message": "fake trouble", "type": "server_error"}
            return await send_json(writer, self.options.status, {"error": error})
        asked = request.json
        async with self._slot_for(request) as slot:
            if asked.get("stream"):
                await self._stream(asked, slot, writer, chat=chat)
                return False
            words = [word async for word in self._tokens(asked, slot)]
            answer = whole_answer(self.options.alias, words, slot, chat=chat)
            return await send_json(writer, 200, answer)

    async def _stream(self, asked: dict[str, Any], slot: Slot, writer: Writer, *, chat: bool) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nServer: llama.cpp\r\nKeep-Alive: timeout=5, max=100"
            b"\r\nAccess-Control-Allow-Origin: \r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        await writer.drain()
        first, each, last = (chat_chunks if chat else text_chunks)(self.options.alias)
        if first:
            await send_event(writer, first)
        async for word in self._tokens(asked, slot):
            if garbled := next((said for switch, said in GARBLED.items() if getattr(self.options, switch)), b""):
                writer.write(garbled)
                await writer.drain()
                return
            await send_event(writer, each(word + "x" * 1024 * (self.options.huge_event or 0)))
        await send_event(writer, last)
        if (asked.get("stream_options") or {}).get("include_usage"):
            await send_event(writer, {**last, "choices": [], "usage": usage_of(slot)})
        await send_chunk(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def _tokens(self, asked: dict[str, Any], slot: Slot) -> AsyncIterator[str]:
        options = self.options
        wanted = asked.get("max_completion_tokens") or asked.get("max_tokens")
        limit = min(wanted, options.ctx_size) if wanted else options.tokens or WHEN_NONE_IS_ASKED
        await prefill(slot, options.prefill_delay)
        for number in range(limit):
            if number == options.crash_after_tokens:
                crash()
            await switched_off(lambda: slot.decoded == options.stall_after_tokens)
            if number:
                await asyncio.sleep(options.token_delay)
            slot.decoded += 1
            self.tokens_predicted += 1
            yield f"word{number} "


def main() -> None:
    parser = option_parser()
    if "--version" in sys.argv:
        sys.stderr.write(VERSION)
        return
    if "--help" in sys.argv:
        for action in parser._actions:
            sys.stdout.write(f"{',    '.join(action.option_strings)}    what it does\n")
        return
    options, _ = parser.parse_known_args()
    if options.ignore_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    asyncio.run(FakeServer(options).run())


if __name__ == "__main__":
    main()
