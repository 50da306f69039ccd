"""What a model may not set in `extra_args` and `env`, because Nebula sets it, and what to use instead."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pydantic_core import PydanticCustomError

_ADDRESS = "Nebula gives every replica its address, from [node] address and engine_ports"
_API_KEY = "Nebula makes a key for every replica"
_GPUS = "use gpus_per_replica"
_HTTP = "Nebula speaks plain HTTP with its engines"
_LORA = "use lora_modules"

FLAGS: Mapping[str, str] = MappingProxyType(
    {
        "--model": "use source",
        "--served-model-name": "use model_uid and aliases",
        "--host": _ADDRESS,
        "--port": _ADDRESS,
        "--uds": _ADDRESS,
        "--api-key": _API_KEY,
        "--ssl-keyfile": _HTTP,
        "--ssl-certfile": _HTTP,
        "--grpc": _HTTP,
        "--headless": _HTTP,
        "--config": "a file that changes would restart no replica; write its lines here",
        "--tensor-parallel-size": _GPUS,
        "-tp": _GPUS,
        "--pipeline-parallel-size": "use pipeline_parallel_size",
        "-pp": "use pipeline_parallel_size",
        "--data-parallel-size": "use data_parallel_size",
        "-dp": "use data_parallel_size",
        "--max-model-len": "use max_model_len",
        "--gpu-memory-utilization": "use gpu_memory_utilization",
        "--dtype": "use dtype",
        "--seed": "use seed",
        "--enable-lora": _LORA,
        "--no-enable-lora": _LORA,
        "--lora-modules": _LORA,
    }
)
"""Flag of vLLM → what to do instead."""

VARIABLES: Mapping[str, str] = MappingProxyType(
    {
        "VLLM_API_KEY": _API_KEY,
        "CUDA_VISIBLE_DEVICES": _GPUS,
        "CUDA_DEVICE_ORDER": _GPUS,
    }
)
"""Environment variable → what to do instead."""


def free_flag(word: str) -> str:
    """`word`, if it is none of `FLAGS`; with underscores, with a value, or shortened it is the same flag to vLLM."""
    flag = word.partition("=")[0].replace("_", "-")
    for taken, instead in FLAGS.items():
        if flag == taken or (flag.startswith("--") and taken.startswith(flag)):
            raise PydanticCustomError("taken", "{taken} is not for extra_args: {instead}", {"taken": taken, "instead": instead})
    return word


def free_variable(name: str) -> str:
    """`name`, if it is none of `VARIABLES`."""
    if name in VARIABLES:
        raise PydanticCustomError("taken", "{name} is not for env: {instead}", {"name": name, "instead": VARIABLES[name]})
    return name
