"""Reads NVIDIA GPUs."""

from __future__ import annotations

import os

from nebula_core import Context, Devices, PluginSettings, Provider, hookimpl
from nebula_devices_nvidia.devices import NvidiaDevices


def build(context: Context, settings: PluginSettings) -> Devices:
    """It has no settings; `CUDA_VISIBLE_DEVICES` of the daemon says which GPUs are the node's."""
    return NvidiaDevices(os.environ.get("CUDA_VISIBLE_DEVICES"), context.clock, context.logger)


@hookimpl
def nebula_register_devices() -> list[Provider[Devices]]:
    """The devices `nvidia`."""
    return [Provider(name="nvidia", build=build)]
