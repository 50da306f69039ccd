"""Strategies by name: the installed ones, built as a gateway builds them, and the baselines."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from nebula_core import Context, Strategy
from nebula_core.metrics import Metrics
from nebula_core.plugins import Plugins, load
from nebula_simulate.baselines import BASELINES
from nebula_simulate.errors import SimulationError
from nebula_simulate.scene import Scene


@dataclass(frozen=True)
class Tables:
    """What a settings file says of strategies: `[router] fallback`, `[plugins] disabled`, and the plugins' own tables."""

    fallback: str = "least_pending"
    disabled: tuple[str, ...] = ()
    plugins: Mapping[str, Mapping[str, Any]] | None = None


@lru_cache(maxsize=1)
def _installed(disabled: tuple[str, ...]) -> Plugins:
    return load(disabled)


def names(tables: Tables) -> list[str]:
    """All strategies that can be simulated: the installed ones, then the baselines."""
    return [*_installed(tables.disabled).names("strategy"), *BASELINES]


def check(asked: Iterable[str], tables: Tables) -> None:
    """Raise `SimulationError` if a strategy is not there, or a `NebulaError` if it cannot be built."""
    known = names(tables)
    for name in asked:
        if name not in known:
            raise SimulationError(
                f"--strategy {name}: there is none of that name. Installed: {', '.join(known[: -len(BASELINES)]) or 'none'}; "
                f"to compare with: {', '.join(BASELINES)}"
            )


def build(name: str, tables: Tables, scene: Scene) -> dict[str, Strategy]:
    """The strategy and the fallback by name, new ones. A baseline goes before a plugin of its name."""
    loaded = _installed(tables.disabled)
    logger = logging.getLogger("nebula.simulate.strategy")
    logger.setLevel(logging.ERROR)  # that signals are missing, each simulation would say again; the table says it once
    context = Context(logger=logger, metrics=Metrics(), clock=scene.clock, data_dir=Path())
    built = {
        wanted: loaded.build("strategy", wanted, "[router] fallback", tables.plugins or {}, lambda plugin: context)
        for wanted in {name, tables.fallback} - set(BASELINES)
    }
    return {name: BASELINES[name](scene), **built} if name in BASELINES else built
