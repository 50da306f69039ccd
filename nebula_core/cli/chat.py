"""`nebula chat`: talking to a model in the terminal, through the public port."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from nebula_core.cli.options import SettingsFile, settings_of
from nebula_core.cli.output import say_error, stderr
from nebula_core.errors import NebulaError

if TYPE_CHECKING:
    from nebula_core.cli.completions import ChatClient, Piece
    from nebula_core.settings import GatewaySettings

_UNPRINTABLE = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n"}

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Model to talk to: its model_uid or an alias.")]
Prompt = Annotated[
    str | None,
    typer.Argument(metavar="PROMPT", help="What to say; - reads it from standard input; without it you talk in turns."),
]
Url = Annotated[str | None, typer.Option(metavar="URL", help="Address of the public port, instead of `\\[gateway] host, port`.")]
ApiKey = Annotated[str | None, typer.Option(metavar="KEY", help="Key for the public port.", envvar=["NEBULA_API_KEY", "OPENAI_API_KEY"])]
System = Annotated[str | None, typer.Option(metavar="TEXT", help="System prompt.")]
MaxTokens = Annotated[int | None, typer.Option(min=1, help="Longest answer, in tokens.")]
Temperature = Annotated[float | None, typer.Option(min=0.0, help="0 is the least random.")]


def chat(
    model: Model,
    prompt: Prompt = None,
    system: System = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    url: Url = None,
    api_key: ApiKey = None,
    settings: SettingsFile = None,
) -> None:
    """Talk to a model."""
    from nebula_core.cli.completions import ChatClient  # httpx takes 0.2 s to import, which `--help` should not pay

    address = url or _address(settings_of(settings).gateway)
    options = {"model": model, "max_tokens": max_tokens, "temperature": temperature}
    messages = [{"role": "system", "content": system}] if system else []
    with ChatClient(address, api_key, options) as client:
        if prompt is None and sys.stdin.isatty():
            _talk(client, messages, model)
            return
        said = sys.stdin.read() if prompt in (None, "-") else prompt
        print_answer(client.answer([*messages, {"role": "user", "content": said}]), [])


def print_answer(answer: Iterable[Piece], said: list[str]) -> None:
    """Print an answer as it comes and add its text to `said`; thoughts are dimmed, and left out where no terminal shows them."""
    terminal = sys.stdout.isatty()
    try:
        for piece in answer:
            if not piece.thought:
                said.append(piece.text)
            sys.stdout.write(_printable(piece) if terminal else "" if piece.thought else piece.text)
            sys.stdout.flush()
    finally:
        if said:
            sys.stdout.write("\n")


def _printable(piece: Piece) -> str:
    """Text for a terminal, which a model shall not steer."""
    text = piece.text.translate(_UNPRINTABLE)
    return f"\x1b[2m{text}\x1b[0m" if piece.thought else text


def _talk(client: ChatClient, messages: list[dict[str, str]], model: str) -> None:
    """Turn by turn, until Ctrl-D. A turn that failed or was stopped before the model said anything is forgotten."""
    with suppress(ImportError):
        import readline  # noqa: F401 - gives `input` line editing and history

    stderr().print(Text(f"Talking to {model}. Ctrl-C stops an answer, Ctrl-D leaves.", style="dim"))
    while (said := _ask()) is not None:
        if not said.strip():
            continue
        messages.append({"role": "user", "content": said})
        answer = _turn(client, messages)
        if answer:
            messages.append({"role": "assistant", "content": answer})
        else:
            messages.pop()


def _ask() -> str | None:
    """The next thing to say; `None` at the end."""
    try:
        return input("\n> ")
    except KeyboardInterrupt:
        return ""
    except EOFError:
        print()
        return None


def _turn(client: ChatClient, messages: list[dict[str, str]]) -> str:
    """What the model answered, as far as it came."""
    said: list[str] = []
    with closing(client.answer(messages)) as answer:
        try:
            print_answer(answer, said)
        except KeyboardInterrupt:
            stderr().print(Text("(stopped)", style="dim"))
        except NebulaError as error:
            say_error(str(error))
    return "".join(said)


def _address(gateway: GatewaySettings) -> str:
    """Where the public port is reached from this machine."""
    if gateway.port == 0:
        raise NebulaError("[gateway] port is 0, so that the system chooses the port: name the address with --url")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(gateway.host, gateway.host)
    return f"http://[{host}]:{gateway.port}" if ":" in host else f"http://{host}:{gateway.port}"
