"""From a replica's spec to vLLM's command line and environment; pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from nebula_core import EngineAddress, ReplicaSpec
from nebula_engine_vllm.arguments import VllmArgs

_OWN_KEYS = ("max_model_len", "gpu_memory_utilization", "dtype", "seed")
"""Keys that are flags of vLLM as they are."""


def command_line(command: Sequence[str], spec: ReplicaSpec, address: EngineAddress, gpus: int) -> tuple[str, ...]:
    """`command` and what it is to do. What must hold comes last: of a flag that is there twice, vLLM takes the last."""
    arguments = VllmArgs.of(spec)
    return (
        *(*command, "serve", resolved(spec.source or spec.model_uid)),
        "--enable-prompt-tokens-details",  # `cached_tokens` in `usage`, as OpenAI has it
        *arguments.extra_args,
        *_own_flags(arguments),
        *_parallel_flags(arguments, gpus),
        *_lora_flags(arguments),
        f"--served-model-name={spec.model_uid}",
        f"--host={address.host}",
        f"--port={address.port}",
    )


def is_path(source: str) -> bool:
    """Whether `source` means a place on the node, not a model of Hugging Face."""
    return source.startswith(("/", "./", "../", "~"))


def resolved(source: str) -> str:
    """A path in full, so that the log tells where it led; anything else as it is."""
    return str(Path(source).expanduser().absolute()) if is_path(source) else source


def _own_flags(arguments: VllmArgs) -> Iterator[str]:
    for key in _OWN_KEYS:
        value = getattr(arguments, key)
        if value is not None:
            yield f"--{key.replace('_', '-')}={value}"


def _parallel_flags(arguments: VllmArgs, gpus: int) -> Iterator[str]:
    if gpus:
        yield f"--tensor-parallel-size={gpus // arguments.cuts}"
    if arguments.pipeline_parallel_size > 1:
        yield f"--pipeline-parallel-size={arguments.pipeline_parallel_size}"
    if arguments.data_parallel_size > 1:
        yield f"--data-parallel-size={arguments.data_parallel_size}"


def _lora_flags(arguments: VllmArgs) -> Iterator[str]:
    if arguments.lora_modules:
        yield from ("--enable-lora", "--lora-modules")
    for name, source in arguments.lora_modules.items():
        yield json.dumps({"name": name, "path": resolved(source)})  # the form `name=path` would split a name with "=" in it
