"""Runs models with vLLM's own server."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from nebula_core import Context, Engine, PluginSettings, Provider, hookimpl
from nebula_engine_vllm.engine import VllmEngine


class VllmSettings(PluginSettings):
    """`[engine_vllm]`."""

    command: tuple[Annotated[str, Field(min_length=1)], ...] = Field(("vllm",), min_length=1)
    """vLLM's command on this node, and words that go before its own: `["/opt/vllm/bin/vllm"]`."""


@hookimpl
def nebula_register_engines() -> list[Provider[Engine]]:
    """The engine `vllm`."""
    return [Provider(name="vllm", build=_build, settings_type=VllmSettings)]


def _build(context: Context, settings: VllmSettings) -> Engine:
    return VllmEngine(settings.command)
