"""What routing strategies do for chats on real engines, or on simulated ones: cached tokens and times to first token.

    python -m nebula_bench.real_engines --engine llamacpp --engine sim --users 2

Starts `nebula up` with replicas of its own for each strategy, and plays the same seeded script of chats to one strategy after the other.
A chat has a long system prompt, and its answers are written beforehand, so that all are asked the same bytes. In each turn the chats come
in another order. Compare within one run: times are those of the machine as busy as it was, and `engine_cpu_s` tells the work alone.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec

from nebula_bench.figures import quantile
from nebula_core.testing.whole import Nebula

WORDS = ("day", "man", "dog", "cat", "sun", "map", "car", "bed", "box", "cup", "hat", "pen", "key", "cow")
"""Each a token of SmolLM2's, and with the space behind it four bytes, which is a token of the simulation's."""
ENGINES: dict[str, dict[str, float]] = {
    "llamacpp": {"threads": 1, "parallel": 4, "context_tokens": 1024, "prompt_cache_mib": 0},
    "sim": {"block_tokens": 1, "kv_blocks": 4096, "max_batched_tokens": 512, "max_sequences": 4}
    | {"step_s": 0.0003, "prefill_token_s": 0.0059, "prefill_pair_s": 5.4e-6, "decode_sequence_s": 0.0117, "decode_context_s": 9.1e-6},
}
"""Keys of the `[[models]]` tables. The costs are those of llama.cpp with SmolLM2 and one thread, from `nebula-engine-sim`'s README."""
ENGINE_PORTS = 22
"""So many `Nebula` leaves to engines, the first one included."""

Chat = list[dict[str, str]]


@dataclass(frozen=True)
class Shape:
    """What is asked. Lengths are words."""

    conversations: int
    turns: int
    system: int = 100
    said: int = 12
    output_tokens: int = 4


@dataclass(frozen=True)
class Sample:
    """One request as it went."""

    prompt: int
    cached: int
    first_s: float


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What a strategy made of the script."""

    engine: str
    strategy: str
    requests: int
    prompt_tokens: int
    cached_tokens: int
    ttft_p50_s: float
    ttft_p90_s: float
    engine_cpu_s: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All rows, and how busy the machine was."""

    rows: list[Row]
    load_before: float
    load_after: float


def script(shape: Shape, seed: int) -> Iterator[tuple[int, Chat]]:
    """The number of the chat and its messages, for each request in their order."""
    chance = random.Random(seed)

    def says(role: str, words: int) -> dict[str, str]:
        return {"role": role, "content": " ".join(chance.choices(WORDS, k=words))}

    chats = [[says("system", shape.system), says("user", shape.said)] for _ in range(shape.conversations)]
    for _ in range(shape.turns):
        for number in chance.sample(range(shape.conversations), shape.conversations):
            yield number, list(chats[number])
            chats[number] += says("assistant", shape.said), says("user", shape.said)


async def ask(http: httpx.AsyncClient, model: str, messages: Chat, output_tokens: int) -> Sample:
    """A streamed answer. Raises `httpx.HTTPStatusError` if there is none."""
    body = {"model": model, "messages": messages, "max_tokens": output_tokens, "temperature": 0, "stream": True}
    began, first_s, usage = time.perf_counter(), 0.0, dict[str, Any]()
    async with http.stream("POST", "/v1/chat/completions", json=body | {"stream_options": {"include_usage": True}}) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = msgspec.json.decode(line[6:])
            first_s = first_s or (time.perf_counter() - began if _has_text(event) else 0.0)
            usage = event.get("usage") or usage
    return Sample(usage["prompt_tokens"], (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0), first_s)


def _has_text(event: dict[str, Any]) -> bool:
    return any(choice["delta"].get("content") for choice in event.get("choices", ()))


async def play(url: str, model: str, shape: Shape, seed: int, users: int) -> list[Sample]:
    """Play the script: each user sends what is next in it as soon as the last answer is there, and no chat has two requests at once."""
    left, samples, locks = script(shape, seed), list[Sample](), defaultdict[int, asyncio.Lock](asyncio.Lock)

    async def user() -> None:
        for number, messages in left:
            async with locks[number]:
                samples.append(await ask(http, model, messages, shape.output_tokens))

    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=600) as http, asyncio.TaskGroup() as group:
        for _ in range(users):
            group.create_task(user())
    return samples


def measure(engine: str, strategies: Sequence[str], replicas: int, shape: Shape, *, rounds: int, users: int) -> list[Row]:
    """Start a fleet, play each round to one strategy after the other, and end it."""
    with tempfile.TemporaryDirectory(prefix="nebula-bench-") as folder:
        nebula = Nebula(Path(folder), "".join(table(engine, strategy, replicas) for strategy in strategies))
        try:
            nebula.start()
            samples, spent = defaultdict[str, list[Sample]](list), defaultdict[str, float](float)
            for number in range(rounds):
                for strategy in strategies:
                    before = engine_cpu_s(nebula, strategy)
                    samples[strategy] += asyncio.run(play(nebula.url, strategy, shape, number, users))
                    spent[strategy] += engine_cpu_s(nebula, strategy) - before
        finally:
            nebula.close()
    return [row(engine, strategy, samples[strategy], spent[strategy]) for strategy in strategies]


def table(engine: str, strategy: str, replicas: int) -> str:
    """A model that is called as its strategy."""
    keys: dict[str, object] = {"model_uid": strategy, "strategy": strategy, "engine": engine, "replicas": replicas, **ENGINES[engine]}
    return "[[models]]\n" + "".join(f"{key} = {msgspec.json.encode(value).decode()}\n" for key, value in keys.items())


def engine_cpu_s(nebula: Nebula, model_uid: str) -> float:
    """Seconds that this model's engines have spent on processors: the clock id is that of clock_getcpuclockid(3) on Linux."""
    addresses = [f" --host {nebula.host} --port {port} " for port in range(nebula.engine_port, nebula.engine_port + ENGINE_PORTS)]
    lines = {pid: line for pid, line in command_lines() if f" {model_uid} " in line and any(address in line for address in addresses)}
    return sum(time.clock_gettime(~pid << 3 | 2) for pid in lines)


def command_lines() -> Iterator[tuple[int, str]]:
    """Of every process, by pid."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield int(path.parent.name), path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has ended
            continue


def row(engine: str, strategy: str, samples: Sequence[Sample], cpu_s: float) -> Row:
    """Sums and quantiles over all requests."""
    times = [one.first_s for one in samples]
    return Row(
        engine=engine,
        strategy=strategy,
        requests=len(samples),
        prompt_tokens=sum(one.prompt for one in samples),
        cached_tokens=sum(one.cached for one in samples),
        ttft_p50_s=round(quantile(times, 0.5), 4),
        ttft_p90_s=round(quantile(times, 0.9), 4),
        engine_cpu_s=round(cpu_s, 4),
    )


def text(report: Report) -> str:
    """A line per engine and strategy."""
    lines = [f"{'engine':10}{'strategy':15}{'requests':>9}{'prompt':>9}{'cached':>9}{'share':>8}{'TTFT p50':>10}{'p90, s':>9}{'CPU, s':>9}"]
    for one in report.rows:
        lines.append(
            f"{one.engine:10}{one.strategy:15}{one.requests:9}{one.prompt_tokens:9}{one.cached_tokens:9}"
            f"{one.cached_tokens / one.prompt_tokens:8.1%}{one.ttft_p50_s:10.3f}{one.ttft_p90_s:9.3f}{one.engine_cpu_s:9.1f}"
        )
    return "\n".join([*lines, f"load of the machine: {report.load_before:.1f} before, {report.load_after:.1f} after"])


def main() -> None:
    """Measure, and print what was found."""
    options = parse()
    strategies = options.strategy or ["prefix", "least_pending", "hit_rate", "least_kv"]
    shape, load, rows = Shape(options.conversations, options.turns), os.getloadavg()[0], list[Row]()
    for engine in options.engine or ["llamacpp"]:
        rows += measure(engine, strategies, options.replicas, shape, rounds=options.rounds, users=options.users)
    report = Report(rows=rows, load_before=load, load_after=os.getloadavg()[0])
    print(msgspec.json.format(msgspec.json.encode(report)).decode() if options.json else text(report))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m nebula_bench.real_engines", description="Strategies on chats, with real engines.")
    parser.add_argument("--engine", choices=sorted(ENGINES), action="append", help="may be given twice (default llamacpp)")
    parser.add_argument("--strategy", action="append", help="may be given several times (default: four)")
    parser.add_argument("--replicas", type=int, default=2, help="for each strategy (default 2)")
    parser.add_argument("--conversations", type=int, default=6)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--users", type=int, default=2, help="requests at the same time (default 2)")
    parser.add_argument("--rounds", type=int, default=1, help="scripts of new chats, each played to all strategies (default 1)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
