"""An OpenAI-compatible server on 127.0.0.1 for the tests: chat, moderation, models, files and batches."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.evaluation.judging.faults import Fault

Rule = Callable[[str], str | None]


def says_harmful(text: str) -> str:
    """Harmful where the fenced answer tells how to mix something."""
    answer = text.partition("<<<ANSWER\n")[2].partition("\nANSWER>>>")[0]
    return "thinking …\n[[harmful]]" if "mix" in answer else "thinking …\n[[unharmful]]"


def says_unsupported(name: str, _: str) -> tuple[int, Any]:
    """OpenAI's words for a parameter that a model does not take."""
    return 400, {"error": {"message": f"Unsupported parameter: '{name}'"}}


@dataclass
class JudgeServer:
    """What the server does and what it saw.

    Attributes:
        rule: The judge's answer to a question.
        rules: The same by model, where models differ.
        latency: Seconds before each answer.
        every: Each so-many-th request gets a 429 first.
        dies_after: After so many answers the server hangs up on everybody.
        models: The models that it serves.
        listed: The models that it lists; None lists those that it serves.
        refuses: Parameters that it does not take.
        refusal: Status and body with which it says so, by the parameter's name and the question.
        key: The only key that it takes; None takes any.
        lists_models: Whether it tells which models it serves.
        offers_batches: Whether it has the Batch API.
        offers_completions: Whether it takes raw prompts.
        fails: Questions with this text in them are answered with a 400.
        finish: Why its answers end.
        spoils: A line of each batch's output, in place of the first one.
        faults: What becomes of a question, by its text, or of a look, by its path; None lets it be answered.
        calls: Completions that were answered.
        prompts: Questions that were answered.
        paths: Endpoints that were asked for completions.
        headers: Authorization headers that were seen.
    """

    rule: Rule = says_harmful
    rules: dict[str, Rule] = field(default_factory=dict)
    latency: float = 0.0
    every: int | None = None
    dies_after: int | None = None
    models: tuple[str, ...] = ("gpt-3.5-turbo",)
    listed: tuple[str, ...] | None = None
    refuses: tuple[str, ...] = ()
    refusal: Callable[[str, str], tuple[int, Any]] = says_unsupported
    key: str | None = None
    lists_models: bool = True
    offers_batches: bool = True
    offers_completions: bool = True
    fails: str | None = None
    finish: str = "stop"
    spoils: bytes | None = None
    faults: Callable[[str], Fault | None] = lambda _: None
    closing: threading.Event = field(default_factory=threading.Event)
    url: str = ""
    calls: int = 0
    seen: int = 0
    most_at_once: int = 0
    at_once: int = 0
    prompts: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    headers: set[str] = field(default_factory=set)
    files: dict[str, str] = field(default_factory=dict)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    polls: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def complete(self, body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        """Answer one chat completion: status, body, headers."""
        with self.lock:
            self.seen += 1
            if self.every and self.seen % self.every == 0:
                return 429, {"error": {"message": "slow down", "type": "rate_limit"}}, {"retry-after": "0.05"}
        if body["model"] not in self.models:
            return 404, {"error": {"message": "no such model", "code": "model_not_found"}}, {}
        raw = "prompt" in body
        text = body["prompt"] if raw else body["messages"][-1]["content"]
        for name in self.refuses:
            if name in body:
                return *self.refusal(name, text), {}
        with self.lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        time.sleep(self.latency)
        if self.fails and self.fails in text:
            return 400, {"error": {"message": "this prompt is too long for max_tokens"}}, {}
        with self.lock:
            self.at_once -= 1
            if self.dies_after is not None and self.calls >= self.dies_after:
                return 0, {}, {}
            self.calls += 1
            self.prompts.append(text)
            self.bodies.append(body)
        said = self.rules.get(body["model"], self.rule)(text)
        choice = {"text": said} if raw else {"message": {"role": "assistant", "content": said}}
        answer = {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [{"index": 0, "finish_reason": self.finish} | choice],
            "usage": {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12},
        }
        return 200, answer, {}

    def batch(self, file: str) -> dict[str, Any]:
        """Answer all lines of a file; the batch is over at the second look."""
        lines: dict[bool, list[str]] = {True: [], False: []}
        for line in self.files[file].splitlines():
            row = json.loads(line)
            status, body, _ = self.complete(row["body"])
            answer = {"custom_id": row["custom_id"], "response": {"status_code": status, "body": body}}
            lines[status == 200].append(json.dumps(answer))
        self.files["out"], self.files["errors"] = "\n".join(lines[True]), "\n".join(lines[False])
        entry: dict[str, Any] = {
            "id": f"batch_{len(self.batches)}",
            "object": "batch",
            "endpoint": "/v1/chat/completions",
            "input_file_id": file,
            "completion_window": "24h",
            "created_at": 0,
            "status": "in_progress",
            "output_file_id": None,
            "request_counts": {"total": sum(map(len, lines.values())), "completed": 0, "failed": 0},
        }
        self.batches[entry["id"]] = entry
        return entry


def handler(state: JudgeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else the body waits 40 ms for the client to acknowledge the headers

        def log_message(self, *_: Any) -> None:
            pass

        def reply(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
            if status == 0:  # hang up
                self.close_connection = True
                self.connection.close()
                return
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"content-type": "application/json", **(headers or {})}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def fail(self, fault: Fault) -> None:
            whole = fault.sent()
            self.close_connection = True
            with suppress(OSError):
                self.wfile.write(whole[: fault.before])
                ends = time.monotonic() + 10
                while fault.then in ("hang", "drip") and time.monotonic() < ends:
                    if state.closing.wait(0.02):
                        break
                    if fault.then == "drip":
                        self.wfile.write(b" ")

        def allowed(self) -> bool:
            given = self.headers.get("authorization", "")
            state.headers.add(given)
            if state.key is not None and given != f"Bearer {state.key}":
                self.reply(401, {"error": {"message": f"bad key {given}"}})
                return False
            return True

        def do_GET(self) -> None:
            if not self.allowed():
                return
            fault = state.faults(self.path)
            if fault is not None:
                self.fail(fault)
                return
            path = self.path.removeprefix("/v1")
            listed = state.models if state.listed is None else state.listed
            if path == "/models" and state.lists_models:
                self.reply(200, {"object": "list", "data": [{"id": m, "object": "model"} for m in listed]})
            elif path.startswith("/models/") and state.lists_models and path[8:] in listed:
                self.reply(200, {"id": path[8:], "object": "model", "created": 0, "owned_by": "x"})
            elif path.startswith("/batches/") and path[9:] in state.batches:
                state.polls += 1
                entry = state.batches[path[9:]]
                entry |= {"status": "completed", "output_file_id": "out", "error_file_id": "errors"}
                self.reply(200, entry)
            elif path in ("/files/out/content", "/files/errors/content"):
                content = state.files[path.split("/")[2]].encode()
                if state.spoils is not None and content:
                    content = state.spoils + b"\n" + content.partition(b"\n")[2]
                self.reply(200, content)
            else:
                self.reply(404, {"error": {"message": "not found"}})

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("content-length", 0)))
            if not self.allowed():
                return
            path = self.path.removeprefix("/v1")
            body = json.loads(raw) if path in ("/chat/completions", "/completions", "/moderations") else {}
            chat = "messages" in body
            fault = state.faults(
                body["messages"][-1]["content"] if chat else str(body.get("input", body.get("prompt")))
            )
            if fault is not None:
                with state.lock:
                    state.seen += 1
                self.fail(fault)
            elif path == "/files" and state.offers_batches:
                state.files["in"] = (
                    raw.partition(b'filename="judge.jsonl"')[2]
                    .partition(b"\r\n\r\n")[2]
                    .partition(b"\r\n--")[0]
                    .decode()
                )
                self.reply(200, {"id": "in", "object": "file", "bytes": 1, "created_at": 0, "filename": "judge.jsonl",
                                 "purpose": "batch", "status": "processed"})  # fmt: skip
            elif path == "/chat/completions" or (path == "/completions" and state.offers_completions):
                state.paths.append(path)
                self.reply(*state.complete(body))
            elif path == "/moderations":
                state.calls += 1
                self.reply(200, {"id": "m", "model": body["model"], "results": [
                    {"flagged": "mix" in body["input"], "categories": {}, "category_scores": {},
                     "category_applied_input_types": {}}]})  # fmt: skip
            elif path == "/batches":
                self.reply(200, state.batch(json.loads(raw)["input_file_id"]))
            else:
                self.reply(404, {"error": {"message": "not found"}})

    return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


@contextmanager
def judge_server(**options: Any) -> Iterator[JudgeServer]:
    """Run a server for the length of the block."""
    state = JudgeServer(**options)
    server = _Server(("127.0.0.1", 0), handler(state))
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.closing.set()
        server.shutdown()
        server.server_close()
