"""Measures times to first token of a real engine, fits the cost model to them, and tells how far the simulation is off.

    python bench/calibrate.py --url http://127.0.0.1:9000 --model smollm2 --budget 512 --sequences 4 --block 1

The engine must have nothing else to do. It is asked for completions of random words, as streams: prompts of several lengths one by one,
each cold and then again with a few words behind it (cached); then several at once. The costs are fitted to what came one by one, by
least squares of the relative error with no cost below 0; what came at once is only predicted. Each request is simulated when it was sent.
The noise is the error of taking a repetition's time for another's: no model can be better.

On a machine that is busy with other things, `--cpu-of PID` takes the CPU time of the engine's process for time. That is right for an
engine that computes in one thread.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from operator import mul
from pathlib import Path
from statistics import median

import httpx
from nebula_engine_sim import CostModel, Job, StepEngine
from nebula_engine_sim.cost import pairs

WORDS = (
    "time ",
    "year ",
    "people ",
    "day ",
    "man ",
    "thing ",
    "life ",
    "child ",
    "world ",
    "school ",
    "state ",
    "group ",
    "hand ",
    "part ",
)
SUFFIX_WORDS = 30
COSTS = ("step_s", "prefill_token_s", "prefill_pair_s", "decode_sequence_s", "decode_context_s")


@dataclass(frozen=True)
class Sample:
    """One request as it went. Times are seconds."""

    group: str
    size: int
    """Words asked for: equal ones are repetitions of each other."""
    sent: float
    first_s: float
    gap_s: float
    """Mean time between its tokens after the first; 0: it had only one."""
    prompt: int
    cached: int
    output: int
    text: str


class Client:
    """Asks one engine."""

    def __init__(self, http: httpx.AsyncClient, model: str, seed: int, clock: Callable[[], float]) -> None:
        self._http, self._model, self._clock = http, model, clock
        self._random = random.Random(seed)

    def words(self, count: int) -> str:
        """Random words; no two texts share a beginning of more than a few."""
        return "".join(self._random.choices(WORDS, k=count))

    async def ask(self, group: str, size: int, text: str, output: int) -> Sample:
        """A streamed completion."""
        body = {"model": self._model, "prompt": text, "max_tokens": output, "stream": True, "temperature": 0, "ignore_eos": True}
        body["stream_options"] = {"include_usage": True}
        sent, times, usage = self._clock(), list[float](), {}
        async with self._http.stream("POST", "/v1/completions", json=body) as response:
            response.raise_for_status()
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line[6:])
                usage = event.get("usage") or usage
                if event.get("choices"):
                    times.append(self._clock())
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
        count = usage["completion_tokens"]
        gap_s = (times[-1] - times[0]) / (count - 1) if count > 1 else 0.0
        return Sample(group, size, sent, times[0] - sent, gap_s, usage["prompt_tokens"], cached, count, text)


async def measure(client: Client, sizes: Sequence[int], repeats: int, at_once: Sequence[int]) -> list[list[Sample]]:
    """Episodes, each of requests that may meet in the engine."""
    await client.ask("warm-up", 10, client.words(10), 4)
    episodes = []
    for _ in range(repeats):
        for size in sizes:
            cold = await client.ask("cold", size, client.words(size), 8)
            cached = await client.ask("cached", size, cold.text + client.words(SUFFIX_WORDS), 8)
            episodes.append([cold, cached])
        for count in at_once:
            mixed = [(size, client.words(size)) for size in (sizes * count)[:count]]
            episodes.append(list(await asyncio.gather(*(client.ask(f"{count} at once", size, text, 8) for size, text in mixed))))
    return episodes


def rows(samples: Iterable[Sample], budget: int) -> list[tuple[list[float], float]]:
    """What each request that came alone says about the costs: counts, in the order of `COSTS`, and the seconds they add up to."""
    found = []
    for one in samples:
        computed = one.prompt - one.cached
        found.append(([-(-computed // budget), computed, pairs(one.cached, computed), 0, 0], one.first_s))
        if one.gap_s:
            found.append(([1, 0, 0, 1, one.prompt + one.output / 2], one.gap_s))
    return [([count / seconds for count in counts], 1.0) for counts, seconds in found]


def least_squares(equations: Sequence[tuple[list[float], float]]) -> list[float]:
    """The factors, none below 0, with the least sum of squared errors: the best of all sets of factors that are not 0."""
    width = len(equations[0][0])
    scales = [max(abs(counts[place]) for counts, _ in equations) or 1.0 for place in range(width)]
    scaled = [([count / scale for count, scale in zip(counts, scales, strict=True)], target) for counts, target in equations]
    best, least = [0.0] * width, float("inf")
    for size in range(1, width + 1):
        for chosen in combinations(range(width), size):
            factors = _solve(scaled, chosen)
            error = sum((sum(map(mul, factors, counts)) - target) ** 2 for counts, target in scaled)
            if min(factors) >= 0 and error < least:
                best, least = factors, error
    return [factor / scale for factor, scale in zip(best, scales, strict=True)]


def _solve(equations: Sequence[tuple[list[float], float]], chosen: Sequence[int]) -> list[float]:
    """The normal equations of these factors, by elimination; all others are 0."""
    rows = [
        [sum(counts[i] * counts[j] for counts, _ in equations) for j in chosen] + [sum(counts[i] * target for counts, target in equations)]
        for i in chosen
    ]
    for place, row in enumerate(rows):
        pivot = row[place] or 1e-30
        row[:] = [value / pivot for value in row]
        for other in rows:
            if other is not row:
                other[:] = [value - other[place] * own for value, own in zip(other, row, strict=True)]
    factors = [0.0] * len(equations[0][0])
    for place, row in zip(chosen, rows, strict=True):
        factors[place] = row[-1]
    return factors


def simulate(episode: Sequence[Sample], engine: StepEngine, together_s: float) -> list[float]:
    """Seconds to each request's first token, when they are sent as they were, but for those within `together_s` of the first."""
    first: dict[str, float] = {}
    ids = [str(place) for place in range(len(episode))]
    begins = episode[0].sent
    for name, one in zip(ids, episode, strict=True):
        after = one.sent - begins if one.sent - begins > together_s else 0.0
        if after or not together_s:
            _note(first, engine.advance(after))
        engine.submit(Job(name, _blocks(one, episode, engine.block_size), one.prompt, one.output), after)
    while (at := engine.next_at()) is not None:
        _note(first, engine.advance(at))
    return [first[name] - (one.sent - begins) for name, one in zip(ids, episode, strict=True)]


def _note(first: dict[str, float], happened: Iterable) -> None:
    first.update((happening.request_id, happening.at) for happening in happened if happening.kind == "first_token")


def _blocks(one: Sample, episode: Sequence[Sample], block: int) -> tuple[int, ...]:
    """A cached prompt begins as the one before it; all others differ from their first token on."""
    own = episode.index(one)
    shared = episode[0].prompt // block if one.group == "cached" else 0
    return tuple(range(shared)) + tuple(range(own * 1_000_000 + shared, own * 1_000_000 + one.prompt // block))


def report(episodes: Sequence[Sequence[Sample]], options: argparse.Namespace, cost: CostModel) -> None:
    """A line per group: what was measured, what was simulated, the error of one from the other, and the noise."""
    rows = []
    for episode in episodes:
        engine = StepEngine(
            block_size=options.block,
            capacity_blocks=options.kv_tokens // options.block,
            max_batched_tokens=options.budget,
            max_sequences=options.sequences,
            cost=cost,
        )
        rows += zip(episode, simulate(episode, engine, options.together), strict=True)
    print(f"{'group':12} {'n':>4} {'measured':>9} {'simulated':>9} {'bias':>7} {'error p50':>9} {'p90':>7} {'noise p50':>9}")
    for group in [*dict.fromkeys(one.group for one, _ in rows), "all"]:
        chosen = [(one, simulated) for one, simulated in rows if group in (one.group, "all")]
        off = sorted(abs(simulated / one.first_s - 1) for one, simulated in chosen)
        bias = median(simulated / one.first_s - 1 for one, simulated in chosen)
        middle = [f"{median(values):9.3f}" for values in ([one.first_s for one, _ in chosen], [simulated for _, simulated in chosen])]
        noise = median(_noise([one for one, _ in chosen]))
        print(f"{group:12} {len(off):4}", *middle, f"{bias:+7.1%} {median(off):9.1%} {off[int(0.9 * (len(off) - 1))]:7.1%} {noise:9.1%}")


def _noise(samples: Sequence[Sample]) -> list[float]:
    return [
        abs(other.first_s / one.first_s - 1)
        for one in samples
        for other in samples
        if other is not one and (one.group, one.size) == (other.group, other.size)
    ] or [0.0]


async def main() -> None:
    """Measure or read, fit, and print."""
    options = parse()
    if options.read:
        episodes = [[Sample(**one) for one in episode] for episode in json.loads(options.read.read_text())]
    else:
        headers = {"Authorization": f"Bearer {os.environ.get('ENGINE_KEY', 'none')}"}
        fresh = httpx.Limits(max_keepalive_connections=0)  # llama.cpp may close a kept connection just when it is used again
        async with httpx.AsyncClient(base_url=options.url, headers=headers, limits=fresh, trust_env=False, timeout=600) as http:
            clock = cpu_clock(options.cpu_of) if options.cpu_of else time.perf_counter
            client = Client(http, options.model, options.seed, clock)
            episodes = await measure(client, numbers(options.sizes), options.repeats, numbers(options.at_once))
    if options.write:
        plain = [[{name: getattr(one, name) for name in one.__dataclass_fields__} for one in episode] for episode in episodes]
        options.write.write_text(json.dumps(plain))
    alone = [one for episode in episodes for one in episode if one.group in ("cold", "cached")]
    cost = replace(CostModel(), **dict(zip(COSTS, least_squares(rows(alone, options.budget)), strict=True)))
    print("\n".join(f"{name} = {getattr(cost, name):.3g}" for name in COSTS), "\n")
    report(episodes, options, cost)


def cpu_clock(pid: int) -> Callable[[], float]:
    """Seconds that all threads of a process have spent on a processor (proc(5), `schedstat`)."""

    def read() -> float:
        return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9

    return read


def numbers(text: str) -> list[int]:
    """Whole numbers, with commas between them."""
    return [int(word) for word in text.split(",")]


def parse() -> argparse.Namespace:
    """The command line; the key that the engine asks for is read from ENGINE_KEY."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", default="sim")
    parser.add_argument("--sizes", default="30,100,250,600,1000", help="words of a prompt")
    parser.add_argument("--at-once", default="2,4", help="how many requests at once")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--budget", type=int, default=8192, help="tokens that the engine computes in one step")
    parser.add_argument("--sequences", type=int, default=256, help="requests that it computes at the same time")
    parser.add_argument("--block", type=int, default=16, help="tokens of a KV block; llama.cpp has 1")
    parser.add_argument("--kv-tokens", type=int, default=100_000, help="tokens that its KV cache holds")
    parser.add_argument("--cpu-of", type=int, metavar="PID", help="take this process's CPU time for time")
    parser.add_argument("--together", type=float, default=0.0, metavar="S", help="requests sent within S seconds begin in one step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path, help="keep what was measured in this file")
    parser.add_argument("--read", type=Path, help="measure nothing: fit and report what lies in this file")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main())
