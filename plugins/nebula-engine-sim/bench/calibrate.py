"""Measures times to first token of a real engine, fits the cost model to them, and tells how far the simulation is off.

    python bench/calibrate.py --url http://127.0.0.1:9000 --model smollm2 --budget 512 --sequences 4 --block 1

The engine must have nothing else to do. It is asked for completions of random words, as streams: prompts of several lengths one by one,
each cold and then again with a few words behind it (cached); then several at once. The costs are fitted by least squares of the relative
error, with no cost below 0, to what came one by one, every other length only, the median of its repetitions; and to the time between tokens
of the fewest at once, which tells what one more sequence in a step costs. The other lengths and the first tokens of those at once are
predicted. Each request is simulated when it was sent. Those at once begin `--gap` after each other: of two that are sent together, which is
computed first, or whether both are, is a race in the engine's HTTP server that no cost model can know.
The noise is the error of taking a repetition's time for another's, of those that came one by one: no model can be better.

On a machine that is busy with other things, `--cpu-of PID` takes the CPU time of the process that computes for time. That is right for an
engine that computes in one thread. Of vLLM that process is `VLLM::Worker`, and not the core, which only plans; and vLLM tells what it had
cached only if it was started with `--enable-prompt-tokens-details`.

Tokens that reach this program all at once do not tell when the first one was there: such requests are left out, and counted. Many of them
mean that this program, or the engine's HTTP server, gets too little of the machine.
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
from functools import partial
from itertools import combinations
from operator import mul
from pathlib import Path
from statistics import median, median_low
from typing import Any

import httpx
from nebula_engine_sim import CostModel, Happening, Job, StepEngine
from nebula_engine_sim.cost import pairs

WORDS = ("day ", "man ", "dog ", "cat ", "sun ", "map ", "car ", "bed ", "box ", "cup ", "hat ", "pen ", "key ", "cow ")
"""Each a token of most tokenizers."""
SUFFIX_WORDS = 30
IDLE_S = 1.0
LEAST_STEP_S = 1e-4
"""The cost model has no step that takes no time, and a fit may find one."""
COSTS = ("step_s", "prefill_token_s", "prefill_pair_s", "decode_sequence_s", "decode_context_s")
Equation = tuple[list[float], float]
"""Counts, in the order of `COSTS`, and the seconds that they add up to."""


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

    @property
    def decoding(self) -> tuple[float, float]:
        """When it had its first token and its last."""
        first = self.sent + self.first_s
        return first, first + self.gap_s * (self.output - 1)

    @property
    def told(self) -> bool:
        """Its first token was seen when it came, and not with the last."""
        return self.gap_s > 0 or self.output == 1


class Client:
    """Asks one engine."""

    def __init__(self, http: httpx.AsyncClient, model: str, seed: int, clock: Callable[[], float]) -> None:
        self._http, self._model, self._clock = http, model, clock
        self._random = random.Random(seed)

    def words(self, count: int) -> str:
        """Random words; no two texts share a beginning of more than a few."""
        return "".join(self._random.choices(WORDS, k=count))

    async def later(self, after_s: float, group: str, size: int, text: str, output: int) -> Sample:
        """As `ask`, when so many seconds have passed by the clock, or when that has come to stand still: the engine is idle then."""
        until, seen, moved = self._clock() + after_s, self._clock(), time.monotonic()
        while seen < until and time.monotonic() < moved + IDLE_S:
            await asyncio.sleep(0.001)
            if (now := self._clock()) > seen:
                seen, moved = now, time.monotonic()
        return await self.ask(group, size, text, output)

    async def ask(self, group: str, size: int, text: str, output: int) -> Sample:
        """A streamed completion."""
        body = {"model": self._model, "prompt": text, "max_tokens": output, "stream": True, "temperature": 0, "ignore_eos": True}
        body["stream_options"] = {"include_usage": True}
        sent, times, usage = self._clock(), list[float](), dict[str, Any]()
        async with self._http.stream("POST", "/v1/completions", json=body) as response:
            response.raise_for_status()
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line[6:])
                usage = event.get("usage") or usage
                if event.get("choices"):
                    times.append(self._clock())
        details = usage.get("prompt_tokens_details")
        if details is None:
            raise SystemExit("the engine does not tell what it had cached; start vLLM with --enable-prompt-tokens-details")
        cached, count = details.get("cached_tokens", 0), usage["completion_tokens"]
        gap_s = (times[-1] - times[0]) / (count - 1) if count > 1 else 0.0
        return Sample(group, size, sent, times[0] - sent, gap_s, usage["prompt_tokens"], cached, count, text)


async def measure(client: Client, sizes: Sequence[int], repeats: int, at_once: Sequence[int], gap_s: float) -> list[list[Sample]]:
    """Episodes, each of requests that may meet in the engine: those at once begin `gap_s` after each other, the longest first."""
    await client.ask("warm-up", 10, client.words(10), 4)
    episodes = []
    for _ in range(repeats):
        for size in sizes:
            cold = await client.ask("cold", size, client.words(size), 8)
            cached = await client.ask("cached", size, cold.text + client.words(SUFFIX_WORDS), 8)
            episodes.append([cold, cached])
        for count in at_once:
            group = f"{count} at once"
            for place in range(len(sizes)):
                mixed = sorted((list(sizes[place:]) + list(sizes) * count)[:count], reverse=True)
                asked = (client.later(gap_s * turn, group, size, client.words(size), 8) for turn, size in enumerate(mixed))
                episodes.append(list(await asyncio.gather(*asked)))
    return episodes


def typical(samples: Iterable[Sample]) -> list[Sample]:
    """The median of each one's repetitions: few that were read late would bend the fit of all."""
    alike: dict[tuple[str, int], list[Sample]] = {}
    for one in samples:
        alike.setdefault((one.group, one.size), []).append(one)
    return [
        replace(
            each[0],
            first_s=median(one.first_s for one in each),
            gap_s=median(one.gap_s for one in each),
            prompt=median_low(one.prompt for one in each),
            cached=median_low(one.cached for one in each),
        )
        for each in alike.values()
    ]


def rows(samples: Iterable[Sample], budget: int) -> list[Equation]:
    """What each request that came alone says about the costs."""
    found: list[Equation] = []
    for one in samples:
        computed = one.prompt - one.cached
        found.append(([-(-computed // budget), computed, pairs(one.cached, computed), 0, 0], one.first_s))
        found += decoding_rows([one])
    return found


def decoding_rows(episode: Sequence[Sample]) -> list[Equation]:
    """What the time between the tokens of the last one that began to decode says, beside those that decoded at the same time."""
    last = max(episode, key=lambda one: one.decoding[0])
    begin, end = last.decoding
    if begin == end:
        return []
    shares = [max(0.0, min(end, one.decoding[1]) - max(begin, one.decoding[0])) / (end - begin) for one in episode]
    context = sum(share * (one.prompt + one.output / 2) for share, one in zip(shares, episode, strict=True))
    return [([1, 0, 0, sum(shares), context], last.gap_s)]


def least_squares(equations: Sequence[Equation]) -> list[float]:
    """The factors, none below 0, with the least sum of squared relative errors: the best of all sets of factors that are not 0."""
    equations = [([count / seconds for count in counts], 1.0) for counts, seconds in equations]
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


def _solve(equations: Sequence[Equation], chosen: Sequence[int]) -> list[float]:
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


def simulate(episode: Sequence[Sample], engine: StepEngine) -> list[tuple[float, float]]:
    """Seconds to each request's first token, and mean seconds between its tokens, when they are sent as they were.

    A cached one is sent when the one before it has ended, as it was: otherwise an end that is simulated a little late would be
    taken for two at once.
    """
    seen: dict[tuple[str, str], float] = {}
    sent: list[float] = []
    for place, one in enumerate(episode):
        sent.append(one.sent - episode[0].sent)
        if one.group == "cached":
            _finish(engine, seen)
            sent[place] = max(sent[place], seen["finished", str(place - 1)])
        _note(seen, engine.advance(sent[place]))
        engine.submit(Job(str(place), _blocks(one, episode, engine.block_size), one.prompt, one.output), sent[place])
    _finish(engine, seen)
    ends = [(seen["first_token", str(place)], seen["finished", str(place)]) for place in range(len(episode))]
    return [(first - at, (end - first) / max(1, one.output - 1)) for one, at, (first, end) in zip(episode, sent, ends, strict=True)]


def _finish(engine: StepEngine, seen: dict[tuple[str, str], float]) -> None:
    while (at := engine.next_at()) is not None:
        _note(seen, engine.advance(at))


def _note(seen: dict[tuple[str, str], float], happened: Iterable[Happening]) -> None:
    seen.update(((happening.kind, happening.request_id), happening.at) for happening in happened)


def _blocks(one: Sample, episode: Sequence[Sample], block: int) -> tuple[int, ...]:
    """A cached prompt begins as the one before it; all others differ from their first token on."""
    own = episode.index(one)
    shared = episode[0].prompt // block if one.group == "cached" else 0
    return tuple(range(shared)) + tuple(range(own * 1_000_000 + shared, own * 1_000_000 + one.prompt // block))


def report(episodes: Sequence[Sequence[Sample]], fitted: Sequence[Sample], options: argparse.Namespace, cost: CostModel) -> None:
    """A line per group: what was measured, what was simulated, the error of one from the other, and the noise."""
    groups: dict[str, list[tuple[Sample, float, float]]] = {}
    for episode in episodes:
        engine = StepEngine(
            block_size=options.block,
            capacity_blocks=options.kv_tokens // options.block,
            max_batched_tokens=options.budget,
            max_sequences=options.sequences,
            cost=cost,
        )
        for one, (first_s, gap_s) in zip(episode, simulate(episode, engine), strict=True):
            if one.told:
                groups.setdefault(f"{one.group}, fitted" if one in fitted else one.group, []).append((one, first_s, gap_s))
    print(f"{'first token':20} {'n':>4} {'measured':>9} {'simulated':>9} {'bias':>7} {'error p50':>9} {'p90':>7} {'noise p50':>9}")
    for group, chosen in groups.items():
        noise = "" if "at once" in group else f"{median(_noise([one for one, *_ in chosen])):9.1%}"
        print(_line(group, [(one.first_s, first_s) for one, first_s, _ in chosen]), noise)
    print("\ntime between tokens")
    for group, chosen in groups.items():
        print(_line(group, [(one.gap_s, gap_s) for one, _, gap_s in chosen if one.gap_s]))
    print(f"\nleft out, as their tokens came all at once: {sum(not one.told for episode in episodes for one in episode)}")


def _line(group: str, found: Sequence[tuple[float, float]]) -> str:
    off = sorted(abs(simulated / measured - 1) for measured, simulated in found)
    bias = median(simulated / measured - 1 for measured, simulated in found)
    measured, simulated = (median(values) for values in zip(*found, strict=True))
    p90 = off[int(0.9 * (len(off) - 1))]
    return f"{group:20} {len(off):4} {measured:9.3f} {simulated:9.3f} {bias:+7.1%} {median(off):9.1%} {p90:7.1%}"


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
            at_once = numbers(options.at_once)
            episodes = await measure(client, numbers(options.sizes), options.repeats, at_once, options.gap)
    if options.write:
        plain = [[{name: getattr(one, name) for name in one.__dataclass_fields__} for one in episode] for episode in episodes]
        options.write.write_text(json.dumps(plain))
    alone = [one for episode in episodes for one in episode if one.group in ("cold", "cached")]
    lengths = sorted({one.size for one in alone})[::2]
    fitted = [one for one in alone if one.size in lengths and one.told]
    fewest = min((len(episode) for episode in episodes if episode[0] not in alone), default=0)
    pairs_told = [
        episode for episode in episodes if episode[0] not in alone and len(episode) == fewest and all(one.told for one in episode)
    ]
    together = [row for episode in pairs_told for row in decoding_rows(episode)]
    found = least_squares(rows(typical(fitted), options.budget) + together)
    cost = replace(CostModel(), **dict(zip(COSTS, (max(found[0], LEAST_STEP_S), *found[1:]), strict=True)))
    print("\n".join(f"{name} = {getattr(cost, name):.3g}" for name in COSTS), "\n")
    report(episodes, fitted, options, cost)


def cpu_clock(pid: int) -> Callable[[], float]:
    """Seconds that all threads of a process have spent on a processor: the clock id is that of clock_getcpuclockid(3) on Linux."""
    return partial(time.clock_gettime, ~pid << 3 | 2)


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
    parser.add_argument("--gap", type=float, default=0.1, metavar="S", help="seconds from one of them to the next")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--budget", type=int, default=8192, help="tokens that the engine computes in one step")
    parser.add_argument("--sequences", type=int, default=256, help="requests that it computes at the same time")
    parser.add_argument("--block", type=int, default=16, help="tokens of a KV block; llama.cpp has 1")
    parser.add_argument("--kv-tokens", type=int, default=100_000, help="tokens that its KV cache holds")
    parser.add_argument("--cpu-of", type=int, metavar="PID", help="take this process's CPU time for time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path, help="keep what was measured in this file")
    parser.add_argument("--read", type=Path, help="measure nothing: fit and report what lies in this file")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main())
