"""Runs engines as child processes that outlive the daemon."""

from __future__ import annotations

from pydantic import Field

from nebula_core import Context, PluginSettings, Provider, Runtime, hookimpl
from nebula_runtime_process.runtime import ProcessRuntime


class ProcessSettings(PluginSettings):
    """`[runtime_process]`."""

    log_bytes: int = Field(16 * 1024 * 1024, ge=4096)
    """Size at which an engine's log is set aside as `log.old`; so it takes at most twice this."""
    keep_logs: int = Field(100, ge=0)
    """How many logs of engines that run no more are kept, the newest ones."""
    pass_env: tuple[str, ...] = ()
    """Further variables of the daemon's environment that engines get, such as `LD_LIBRARY_PATH` or `HF_HOME`."""


def build(context: Context, settings: ProcessSettings) -> ProcessRuntime:
    """The runtime, for the engines whose files lie in `context.data_dir`."""
    return ProcessRuntime(
        context.data_dir, log_bytes=settings.log_bytes, keep_logs=settings.keep_logs, pass_env=settings.pass_env, logger=context.logger
    )


@hookimpl
def nebula_register_runtimes() -> list[Provider[Runtime]]:
    """The runtime `process`."""
    return [Provider(name="process", build=build, settings_type=ProcessSettings)]
