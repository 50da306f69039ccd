"""`nebula chat` against a real HTTP server that plays the public port, in a pipe and in a real terminal."""

import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from nebula_core.cli.completions import ChatError, Piece, events, pieces

Run = Callable[..., subprocess.CompletedProcess[str]]


def delta(**fields: str) -> str:
    return "data: " + json.dumps({"choices": [{"index": 0, "delta": fields}]})


def answer(handler: Any) -> None:
    handler.send_events(delta(role="assistant", content=""), ": a comment", delta(content="Hello "), delta(content="there"), "data: [DONE]")


@pytest.fixture
def public(server: Any, tmp_path: Path) -> Any:
    """A server that the settings file names as the gateway; it answers "Hello there"."""
    (tmp_path / "settings.toml").write_text(f"[gateway]\nport = {server.server_port}\n")
    server.reply = answer
    return server


def test_a_prompt_is_answered(nebula: Run, public: Any) -> None:
    result = nebula("chat", "smollm2", "Hi")
    assert (result.returncode, result.stdout, result.stderr) == (0, "Hello there\n", "")


def test_the_request_is_what_was_asked_for(nebula: Run, public: Any) -> None:
    nebula("chat", "smollm2", "Hi", "--system", "Be brief.", "--max-tokens", "5", "--temperature", "0")
    ((_, path, _, body),) = public.seen
    assert path == "/v1/chat/completions"
    assert body == {
        "model": "smollm2",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        "max_tokens": 5,
        "temperature": 0.0,
        "stream": True,
    }


@pytest.mark.parametrize("args", [["-"], []])
def test_the_prompt_may_come_from_a_pipe(nebula: Run, public: Any, args: list[str]) -> None:
    nebula("chat", "smollm2", *args, stdin="Sum up:\nall of it")
    assert public.seen[0][3]["messages"] == [{"role": "user", "content": "Sum up:\nall of it"}]


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_another_address_may_be_named(nebula: Run, server: Any, suffix: str) -> None:
    server.reply = answer
    assert nebula("chat", "m", "Hi", "--url", server.url + suffix).stdout == "Hello there\n"


@pytest.mark.parametrize(
    ("args", "environ", "expected"),
    [
        ([], {}, None),
        (["--api-key", "a"], {"NEBULA_API_KEY": "b"}, "Bearer a"),
        ([], {"NEBULA_API_KEY": "b", "OPENAI_API_KEY": "c"}, "Bearer b"),
        ([], {"OPENAI_API_KEY": "c"}, "Bearer c"),
    ],
)
def test_the_key_is_sent(nebula: Run, public: Any, args: list[str], environ: dict[str, str], expected: str | None) -> None:
    nebula("chat", "m", "Hi", *args, **environ)
    assert public.seen[0][2].get("authorization") == expected


def test_proxies_of_the_environment_are_not_used(nebula: Run, public: Any) -> None:
    assert nebula("chat", "m", "Hi", http_proxy="http://127.0.0.1:1", ALL_PROXY="http://127.0.0.1:1").returncode == 0


def test_a_refusal_is_shown_in_its_own_words(nebula: Run, public: Any) -> None:
    error = {
        "message": 'There is no model "m"; there are: smollm2',
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }
    public.reply = lambda handler: handler.send_json(404, {"error": error})
    result = nebula("chat", "m", "Hi")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == 'error: There is no model "m"; there are: smollm2 (HTTP 404)\n'


def test_an_error_in_mid_answer_is_shown_after_what_came(nebula: Run, public: Any) -> None:
    public.reply = lambda handler: handler.send_events(delta(content="Hel"), 'data: {"error": {"message": "the engine died"}}')
    result = nebula("chat", "m", "Hi")
    assert (result.returncode, result.stdout, result.stderr) == (1, "Hel\n", "error: the engine died\n")


def test_an_answer_that_breaks_off_is_an_error(nebula: Run, public: Any) -> None:
    public.reply = lambda handler: handler.send_events(delta(content="Hel"))
    assert nebula("chat", "m", "Hi").stderr == "error: the answer broke off before its end\n"


def test_nobody_at_the_address_is_said_with_the_way_out(nebula: Run) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        result = nebula("chat", "m", "Hi", "--url", url)
    assert result.returncode == 1
    assert result.stderr == f"error: nothing answers at {url}: `nebula up` starts a Nebula, --url names another address\n"


def test_thoughts_stay_out_of_a_pipe(nebula: Run, public: Any) -> None:
    public.reply = lambda handler: handler.send_events(delta(reasoning_content="Hm."), delta(content="Yes"), "data: [DONE]")
    assert nebula("chat", "m", "Hi").stdout == "Yes\n"


def test_events_may_have_several_lines_and_other_fields() -> None:
    assert list(events([": hi", "event: x", "data: a", "data:b", "", "", "id: 3", "data: c"])) == ["a\nb", "c"]


def test_pieces_skip_what_has_no_text() -> None:
    lines = [
        delta(role="assistant"),
        "",
        'data: {"choices": [], "usage": {}}',
        "",
        delta(reasoning="r"),
        "",
        delta(content="a"),
        "",
        "data: [DONE]",
        "",
    ]
    assert list(pieces(lines)) == [Piece("r", thought=True), Piece("a")]


def test_an_error_event_ends_the_pieces() -> None:
    with pytest.raises(ChatError, match="no room"):
        list(pieces(['data: {"error": "no room"}', ""]))


def hear_ctrl_c() -> None:
    """What runs in the background of a shell without job control ignores Ctrl-C, and so would the program that a test starts there."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """A process on a pseudo terminal, typed to and read from."""

    def __init__(self, args: list[str], environment: dict[str, str], folder: Path) -> None:
        self.screen, slave = pty.openpty()
        program = [sys.executable, "-c", "from nebula_core.cli import main; main()", *args]
        self.process = subprocess.Popen(
            program,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment | {"TERM": "xterm"},
            cwd=folder,
            start_new_session=True,
            preexec_fn=hear_ctrl_c,
        )
        os.close(slave)
        self.text = ""

    def type(self, text: str) -> None:
        os.write(self.screen, text.encode())

    def wait_for(self, text: str, times: int = 1) -> None:
        """Read until `text` has come as often as that."""
        deadline = time.monotonic() + 30
        while self.text.count(text) < times:
            assert time.monotonic() < deadline, f"{text!r} did not come {times} times in {self.text!r}"
            if select.select([self.screen], [], [], 0.1)[0]:
                self.text += os.read(self.screen, 65536).decode()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.screen)


@pytest.fixture
def terminal(tmp_path: Path, environment: dict[str, str], public: Any) -> Iterator[Terminal]:
    opened = Terminal(["chat", "smollm2"], environment, tmp_path)
    yield opened
    opened.close()


def test_turns_follow_each_other_until_ctrl_d(terminal: Terminal, public: Any) -> None:
    terminal.wait_for("> ")
    terminal.type("Hi\n")
    terminal.wait_for("Hello there")
    terminal.type("And?\n")
    terminal.wait_for("Hello there", times=2)
    terminal.wait_for("> ", times=3)
    terminal.type("\x04")
    assert terminal.process.wait(30) == 0
    assert [message["content"] for message in public.seen[1][3]["messages"]] == ["Hi", "Hello there", "And?"]


def test_ctrl_c_stops_an_answer_and_not_the_chat(terminal: Terminal, public: Any) -> None:
    cancelled = threading.Event()

    def endless(handler: Any) -> None:
        handler.send_events(delta(content="on and on"))
        with suppress(ConnectionError):
            while not select.select([handler.connection], [], [], 0.05)[0]:  # readable only when the client goes away
                handler.wfile.write(f"{delta(content=' and on')}\n\n".encode())  # a Ctrl-C just before a read is seen after it
        cancelled.set()

    public.reply = endless
    terminal.wait_for("> ")
    terminal.type("Hi\n")
    terminal.wait_for("on and on")
    os.kill(terminal.process.pid, signal.SIGINT)
    terminal.wait_for("(stopped)")
    assert cancelled.wait(30)
    public.reply = answer
    terminal.wait_for("> ", times=2)
    terminal.type("Again\n")
    terminal.wait_for("Hello there")
    first, stopped, again = (message["content"] for message in public.seen[1][3]["messages"])
    assert (first, stopped[:9], again) == ("Hi", "on and on", "Again")


def test_a_turn_that_is_refused_is_forgotten(terminal: Terminal, public: Any) -> None:
    public.reply = lambda handler: handler.send_json(503, {"error": {"message": "not ready"}})
    terminal.wait_for("> ")
    terminal.type("Hi\n")
    terminal.wait_for("not ready (HTTP 503)")
    public.reply = answer
    terminal.type("Again\n")
    terminal.wait_for("Hello there")
    assert [message["content"] for message in public.seen[1][3]["messages"]] == ["Again"]


def test_a_model_cannot_steer_the_terminal(terminal: Terminal, public: Any) -> None:
    public.reply = lambda handler: handler.send_events(delta(content="\x1b[2Jwiped\x07"), "data: [DONE]")
    terminal.wait_for("> ")
    terminal.type("Hi\n")
    terminal.wait_for("[2Jwiped")
    assert "\x1b[2J" not in terminal.text
    assert "\x07" not in terminal.text
