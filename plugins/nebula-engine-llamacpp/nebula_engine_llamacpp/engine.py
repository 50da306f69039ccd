"""`LlamaCppEngine`: what to start for a model that llama.cpp runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from nebula_core import Engine, EngineAddress, Launch, LaunchError, ModelRequest, ReplicaSpec
from nebula_engine_llamacpp.arguments import LlamaCppArgs
from nebula_engine_llamacpp.weights import is_bundled, weights

SERVER = Path(__file__).with_name("server.py")
"""Run as a script, not as a module of this package: the engine's process then need not import Nebula."""


class LlamaCppEngine(Engine):
    """Starts llama.cpp's own server in a process of its own, one model in each."""

    scraper = "llamacpp"

    def specs(self, request: ModelRequest) -> tuple[ReplicaSpec, ...]:
        """As many equal replicas as asked for."""
        arguments = LlamaCppArgs.of(request)
        spec = ReplicaSpec(
            model_uid=request.model_uid,
            engine=request.engine,
            source=request.source,
            gpus=request.gpus_per_replica,
            engine_args=arguments.model_dump(exclude_unset=True),
        )
        return (spec,) * request.replicas

    def check(self, spec: ReplicaSpec) -> None:
        """Raise `LaunchError` if llama.cpp or the model's file is missing here."""
        if find_spec("xllamacpp") is None:
            raise LaunchError(f'the model "{spec.model_uid}" needs llama.cpp, which is not installed here: `pip install xllamacpp`')
        weights(spec)

    def launch(self, spec: ReplicaSpec, address: EngineAddress, gpu_indexes: tuple[int, ...]) -> Launch:
        """The server script with the model's file and keys. Raises `LaunchError` if the file is missing."""
        arguments = LlamaCppArgs.of(spec)
        if is_bundled(spec):
            arguments = _for_bundled(arguments)
        argv = (
            *(sys.executable, "-P", str(SERVER)),
            *("--model", str(weights(spec)), "--alias", spec.model_uid),
            *("--host", address.host, "--port", str(address.port)),
            *_flags(arguments),
        )
        return Launch(argv, _environment(address.api_key, gpu_indexes))


def _for_bundled(arguments: LlamaCppArgs) -> LlamaCppArgs:
    """The bundled model's file names no pooling, so embeddings need one."""
    embeddings = True if arguments.embeddings is None else arguments.embeddings
    return arguments.model_copy(update={"embeddings": embeddings, "pooling": arguments.pooling or "mean"})


def _flags(arguments: LlamaCppArgs) -> Iterator[str]:
    for key, value in arguments:
        flag = "--" + key.replace("_", "-")
        if value is True:
            yield flag
        elif value is not None and value is not False:
            yield f"{flag}={value}"


def _environment(api_key: str, gpu_indexes: tuple[int, ...]) -> dict[str, str]:
    """The key goes here because every user of the machine can read argv. No GPU given means that it sees none."""
    return {
        "LLAMA_API_KEY": api_key,
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # the order that the node counts in
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, gpu_indexes)),
    }
