"""`SimulatedEngine`: what to start for a model that is only simulated."""

from __future__ import annotations

import sys

import msgspec

from nebula_core import Engine, EngineAddress, InvalidModelRequest, Launch, LaunchError, ModelRequest, ReplicaSpec
from nebula_engine_sim.arguments import SimArgs

KEY_VARIABLE = "NEBULA_SIM_API_KEY"
"""Environment variable with the key that clients must send; every user of the machine can read argv."""


class SimulatedEngine(Engine):
    """Starts a process per replica that answers as vLLM would, and computes nothing."""

    scraper = "vllm"

    def specs(self, request: ModelRequest) -> tuple[ReplicaSpec, ...]:
        """As many equal replicas as asked for. Gateways put the `model_uid` in the place of an alias that is no LoRA's."""
        arguments = SimArgs.of(request)
        where = f'the model "{request.model_uid}" (engine "{request.engine}")'
        if unknown := sorted(set(arguments.loras) - set(request.aliases)):
            raise InvalidModelRequest(f"{where} loras: clients cannot ask for {', '.join(unknown)} until aliases has that too")
        try:
            arguments.make_engine(tokens=False)
        except ValueError as error:
            raise InvalidModelRequest(f"{where}: {error}") from error
        spec = ReplicaSpec(
            model_uid=request.model_uid,
            engine=request.engine,
            source=request.source,
            served_names=(request.model_uid, *arguments.loras),
            gpus=request.gpus_per_replica,
            engine_args=arguments.model_dump(mode="json", exclude_unset=True),
        )
        return (spec,) * request.replicas

    def check(self, spec: ReplicaSpec) -> None:
        """Raise `LaunchError` if the file of faults is missing or wrong."""
        try:
            SimArgs.of(spec).timeline()
        except (OSError, ValueError) as error:
            raise LaunchError(f'the model "{spec.model_uid}" has faults that cannot be read: {error}') from error

    def launch(self, spec: ReplicaSpec, address: EngineAddress, gpu_indexes: tuple[int, ...]) -> Launch:
        """This package's program, with the model's keys."""
        argv = (
            *(sys.executable, "-P", "-m", "nebula_engine_sim"),
            *("--model", spec.model_uid, "--host", address.host, "--port", str(address.port)),
            *(f"--{key.replace('_', '-')}={_text(value)}" for key, value in spec.engine_args.items()),
        )
        return Launch(argv, {KEY_VARIABLE: address.api_key})


def _text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
