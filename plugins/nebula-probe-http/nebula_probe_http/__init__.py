"""Tells whether an engine is well by asking it over HTTP."""

from __future__ import annotations

from nebula_core import Context, PluginError, PluginSettings, Probe, Provider, hookimpl
from nebula_probe_http.probe import HttpProbe


@hookimpl
def nebula_register_probes() -> list[Provider[Probe]]:
    """The probe `http`."""
    return [Provider(name="http", build=_build)]


def _build(context: Context, settings: PluginSettings) -> Probe:
    if context.http is None:
        raise PluginError('the probe "http" needs the HTTP client of a control process; there is none in a gateway worker')
    return HttpProbe(context.http)
