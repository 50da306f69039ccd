"""Runs GGUF models with llama.cpp, from the wheel `xllamacpp`."""

from __future__ import annotations

from nebula_core import Engine, Provider, hookimpl
from nebula_engine_llamacpp.engine import LlamaCppEngine


@hookimpl
def nebula_register_engines() -> list[Provider[Engine]]:
    """The engine `llamacpp`."""
    return [Provider(name="llamacpp", build=lambda context, settings: LlamaCppEngine())]
