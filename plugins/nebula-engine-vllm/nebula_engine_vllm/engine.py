"""`VllmEngine`: what to start for a model that vLLM runs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from nebula_core import Engine, EngineAddress, InvalidModelRequest, Launch, LaunchError, ModelRequest, ReplicaSpec
from nebula_engine_vllm.arguments import VllmArgs
from nebula_engine_vllm.command import command_line, is_path, resolved


class VllmEngine(Engine):
    """Starts `vllm serve`, one model in each, from the environment that vLLM is installed in."""

    scraper = "vllm"

    def __init__(self, command: Sequence[str]) -> None:
        self._command = (str(Path(command[0]).expanduser()), *command[1:])

    def specs(self, request: ModelRequest) -> tuple[ReplicaSpec, ...]:
        """As many equal replicas as asked for.

        Aliases are left out, but for those of LoRA adapters: gateways put the `model_uid` in their place, so that a new alias does not
        load the model anew.
        """
        arguments = VllmArgs.of(request)
        _check(request, arguments)
        spec = ReplicaSpec(
            model_uid=request.model_uid,
            engine=request.engine,
            source=request.source,
            served_names=(request.model_uid, *sorted(arguments.lora_modules)),
            gpus=request.gpus_per_replica,
            engine_args=arguments.model_dump(mode="json", exclude_unset=True),
        )
        return (spec,) * request.replicas

    def check(self, spec: ReplicaSpec) -> None:
        """Raise `LaunchError` if vLLM's command, or a folder that the model is to be loaded from, is missing here."""
        if shutil.which(self._command[0]) is None:
            raise LaunchError(
                f'the model "{spec.model_uid}" needs vLLM, whose command {self._command[0]} is not found on this node; '
                'install vLLM in an environment of its own, and name its command: [engine_vllm] command = ["/opt/vllm/bin/vllm"]'
            )
        _check_is_here(spec, "source", spec.source or "")
        for name, source in VllmArgs.of(spec).lora_modules.items():
            _check_is_here(spec, f'LoRA adapter "{name}"', source)

    def launch(self, spec: ReplicaSpec, address: EngineAddress, gpu_indexes: tuple[int, ...]) -> Launch:
        """`vllm serve` with the model's keys. The API key goes into the environment: every user of the machine can read argv."""
        env = {**self._path(), **VllmArgs.of(spec).env, "VLLM_API_KEY": address.api_key}
        return Launch(command_line(self._command, spec, address, len(gpu_indexes)), env)

    def _path(self) -> dict[str, str]:
        """What vLLM starts itself, such as the `ninja` that builds its kernels, lies beside it in an environment that nobody activated."""
        folder = Path(self._command[0]).parent
        return {"PATH": f"{folder}{os.pathsep}{os.environ.get('PATH', os.defpath)}"} if folder.is_absolute() else {}


def _check(request: ModelRequest, arguments: VllmArgs) -> None:
    """Raise `InvalidModelRequest` for keys that do not fit together."""
    where = f'the model "{request.model_uid}" (engine "{request.engine}")'
    source = request.source or request.model_uid
    if source.startswith("-") or (request.source is None and "/" not in source):
        raise InvalidModelRequest(f'{where} source: name a folder on the node, or a Hugging Face model such as "Qwen/Qwen3-8B"')
    if unknown := sorted(arguments.lora_modules.keys() - set(request.aliases)):
        raise InvalidModelRequest(
            f"{where} lora_modules: clients cannot ask for {', '.join(map(repr, unknown))}, because aliases lacks it; add it there"
        )
    if request.gpus_per_replica % arguments.cuts:
        raise InvalidModelRequest(
            f"{where} gpus_per_replica ({request.gpus_per_replica}) must be a multiple of "
            f"pipeline_parallel_size × data_parallel_size ({arguments.cuts})"
        )


def _check_is_here(spec: ReplicaSpec, what: str, source: str) -> None:
    if is_path(source) and not Path(resolved(source)).exists():
        raise LaunchError(
            f'the model "{spec.model_uid}" has the {what} {resolved(source)}, which is not on this node; '
            "put it there, on every node that may run the model, or name a model of Hugging Face"
        )
