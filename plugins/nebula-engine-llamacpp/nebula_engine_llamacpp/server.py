"""The engine's process: llama.cpp's own server from the wheel `xllamacpp`, with one model, until SIGTERM.

A script that imports nothing of Nebula. The key that clients must send is read from `LLAMA_API_KEY`. Exit code 0 after SIGTERM or
SIGINT, 1 if the model cannot be loaded or the port cannot be had; a signal during loading ends it at once, by that signal.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path

try:
    import xllamacpp
except ImportError as error:
    sys.exit(f"llama.cpp cannot be loaded: {error} (it needs the system's libgomp: `apt install libgomp1` or `dnf install libgomp`)")

WARNINGS, REQUESTS = 2, 3
"""llama.cpp's log levels: faults and warnings; a few lines for each request too."""
CONNECTIONS = 512
"""Threads that speak HTTP, one per connection. llama.cpp's own pool of a few does not grow fast enough in a burst:
`/health` then goes unanswered behind waiting requests, and a busy engine looks like a dead one."""


def main() -> int:
    """Load the model and serve it; returns only if that fails, with the exit code."""
    # The library keeps Python from running while it loads, so that a handler of ours would wait for minutes.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    options = parse(sys.argv[1:])
    began = time.monotonic()
    say(f"loading {options.model}")
    try:
        server = xllamacpp.Server(parameters(options, os.environ.get("LLAMA_API_KEY", "")))
    except (RuntimeError, ValueError) as error:
        say(f"llama.cpp cannot serve {options.model} on {options.host}:{options.port}; its own lines above say why ({error})")
        return 1
    say(f"{options.alias} is ready on {server.listening_address} after {time.monotonic() - began:.1f} s")
    say(f"stopping on {wait_for_signal().name}")
    os._exit(0)  # taking the server apart would wait for every answer that still runs; who sends the signal has drained it


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line: `arguments.py` describes these keys and has their defaults."""
    parser = argparse.ArgumentParser(description="Serve one GGUF model with llama.cpp.", allow_abbrev=False)
    parser.add_argument("--model", required=True)
    parser.add_argument("--alias", required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    for count in ("context-tokens", "parallel", "batch-tokens", "prompt-cache-mib"):
        parser.add_argument(f"--{count}", type=int, required=True)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--gpu-layers", type=int, default=-1)  # llama.cpp's word for "as many as fit"
    parser.add_argument("--embeddings", action="store_true")
    parser.add_argument("--pooling", default="unspecified")
    parser.add_argument("--chat-template", default="")
    parser.add_argument("--verbose", action="store_true")
    return parser.parse_args(argv)


def batch_tokens(options: argparse.Namespace) -> int:
    """Tokens of one step. With embeddings llama.cpp aborts at its start if its slots cannot share them evenly."""
    tokens, slots = int(options.batch_tokens), int(options.parallel)
    return max(1, tokens // slots) * slots if options.embeddings else tokens


def parameters(options: argparse.Namespace, api_key: str) -> xllamacpp.CommonParams:
    """What llama.cpp is to do; all that is not set here is its own default."""
    params = xllamacpp.CommonParams()
    params.model.path = options.model
    params.model_alias = {options.alias}
    params.hostnames = [options.host]
    params.port = options.port
    params.n_threads_http = CONNECTIONS
    params.api_keys = [api_key] if api_key else []
    params.n_parallel = options.parallel
    params.n_ctx = options.context_tokens * options.parallel
    params.n_batch = params.n_ubatch = batch_tokens(options)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    params.n_gpu_layers = options.gpu_layers
    params.cache_ram_mib = options.prompt_cache_mib
    params.chat_template = options.chat_template
    params.embedding = options.embeddings
    params.pooling_type = getattr(xllamacpp.llama_pooling_type, f"LLAMA_POOLING_TYPE_{options.pooling.upper()}")
    params.endpoint_metrics = True
    params.endpoint_slots = True
    params.ui = False
    params.verbosity = REQUESTS if options.verbose else WARNINGS
    return params


def default_threads() -> int:
    """One per physical core, and a core left to others.

    llama.cpp's threads wait for each other by spinning, hundreds of times per token: where one has to share its core, all of them
    stand still for its absence, and two threads on two cores give a tenth of the tokens that one gives.
    """
    siblings = Path("/sys/devices/system/cpu").glob("cpu[0-9]*/topology/core_cpus_list")
    usable = len(os.sched_getaffinity(0))
    physical = len({path.read_text() for path in siblings}) or usable
    return max(1, min(physical, usable - 1))


def wait_for_signal() -> signal.Signals:
    """Wait for SIGTERM or SIGINT. A pipe is written for it: the kernel may give the signal to a thread of the library's."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    return signal.Signals(os.read(reading, 1)[0])


def say(line: str) -> None:
    """One line for the engine's log."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
