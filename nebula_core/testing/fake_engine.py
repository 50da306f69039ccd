"""A stand-in for an inference server: `python fake_engine.py --port 18000 [options]`. It computes nothing and echoes.

It needs the standard library only and is run by its path, so that it is up at once and never imports Nebula.

    GET  /health               200 once loaded, 503 until then
    GET  /load                 {"pending": 0, "running": n}
    GET  /v1/models            the model's name
    POST /v1/chat/completions  the last message, echoed; streamed word by word if asked
    POST /exit?code=3          ends the process
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


def main() -> None:
    """Run until told to end."""
    options = parse()
    for line in options.say:
        print(line, flush=True)
    if options.write_bytes:
        write_lines(options.write_bytes)
    if options.ignore_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for _ in range(options.children):
        spawn_child()
    if options.crash is not None:
        sys.exit(options.crash)
    with FakeServer(options) as server:
        print(f"listening on {options.host}:{server.server_port}", flush=True)
        server.serve_forever()


def parse() -> argparse.Namespace:
    """The options, as the command line gives them."""
    parser = argparse.ArgumentParser(description="A stand-in for an inference server.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--model", default="fake")
    parser.add_argument("--api-key", default="", help="the key to ask for; none: everybody is served")
    parser.add_argument("--ready-after", type=float, default=0.0, metavar="S", help="seconds that loading takes")
    parser.add_argument("--think-s", type=float, default=0.0, metavar="S", help="seconds before the first byte of an answer's body")
    parser.add_argument("--word-s", type=float, default=0.0, metavar="S", help="seconds between two words of a streamed answer")
    parser.add_argument("--say", action="append", default=[], metavar="LINE", help="a line to print at start")
    parser.add_argument("--write-bytes", type=int, default=0, metavar="N", help="numbered lines to print at start, this much")
    parser.add_argument("--crash", type=int, metavar="CODE", help="end with this code instead of serving")
    parser.add_argument("--ignore-term", action="store_true", help="take no notice of SIGTERM")
    parser.add_argument("--children", type=int, default=0, metavar="N", help="processes to leave behind, each in its own session")
    return parser.parse_args()


def write_lines(size: int) -> None:
    """Print numbered lines of 100 bytes."""
    for number in range(size // 100):
        sys.stdout.write(f"{number:099d}\n")
    sys.stdout.flush()


def spawn_child() -> None:
    """A process that hides in a session of its own, takes no notice of SIGTERM and lasts."""
    script = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('child up', flush=True); time.sleep(600)"
    subprocess.Popen([sys.executable, "-I", "-S", "-c", script], start_new_session=True)


class FakeServer(ThreadingHTTPServer):
    """The server and what its requests share."""

    daemon_threads = True

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__((options.host, options.port), Handler)
        self.options = options
        self.ready_at = time.monotonic() + options.ready_after
        self.running = 0
        self.lock = threading.Lock()

    def count(self, difference: int) -> None:
        """Add to the number of running requests."""
        with self.lock:
            self.running += difference


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: FakeServer

    def do_GET(self) -> None:
        """Health, load and models."""
        options = self.server.options
        loaded = time.monotonic() >= self.server.ready_at
        if self.path == "/health":
            self.answer(200 if loaded else 503, {"status": "ok" if loaded else "loading"})
        elif not self.allowed():
            self.answer(401, {"error": {"message": "wrong key", "type": "invalid_request_error", "param": None, "code": None}})
        elif self.path == "/load":
            self.answer(200, {"pending": 0, "running": self.server.running})
        elif self.path == "/v1/models":
            self.answer(200, {"object": "list", "data": [{"id": options.model, "object": "model", "created": 0, "owned_by": "fake"}]})
        else:
            self.answer(404, {"error": {"message": f"no {self.path} here", "type": "not_found", "param": None, "code": None}})

    def do_POST(self) -> None:
        """Chat completions and `/exit`."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = urlsplit(self.path)
        if url.path == "/exit":
            os._exit(int(parse_qs(url.query).get("code", ["0"])[0]))
        if not self.allowed():
            self.answer(401, {"error": {"message": "wrong key", "type": "invalid_request_error", "param": None, "code": None}})
            return
        self.server.count(+1)
        try:
            self.echo(json.loads(body))
        finally:
            self.server.count(-1)

    def echo(self, request: dict[str, Any]) -> None:
        """Answer with the last message."""
        text = str(request["messages"][-1]["content"])
        head = {"id": "chatcmpl-fake", "created": 0, "model": request.get("model")}
        if not request.get("stream"):
            time.sleep(self.server.options.think_s)
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            self.answer(200, {**head, "object": "chat.completion", "choices": [choice]})
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        time.sleep(self.server.options.think_s)
        for word in text.split(" "):
            choice = {"index": 0, "delta": {"content": word + " "}, "finish_reason": None}
            self.event(json.dumps({**head, "object": "chat.completion.chunk", "choices": [choice]}))
            time.sleep(self.server.options.word_s)
        self.event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def event(self, data: str) -> None:
        """One event of a stream, as a chunk of its own."""
        event = f"data: {data}\n\n".encode()
        self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))

    def allowed(self) -> bool:
        """Whether the request carries the key, if one is asked for."""
        key = self.server.options.api_key
        return not key or self.headers.get("Authorization") == f"Bearer {key}"

    def answer(self, status: int, value: dict[str, Any]) -> None:
        """One JSON answer."""
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a probe every second would fill the log."""


if __name__ == "__main__":
    main()
