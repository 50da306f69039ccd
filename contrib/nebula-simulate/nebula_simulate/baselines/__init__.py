"""Rules of other routers, and rules that know what nobody can: to compare with, and not to serve by.

They are built by name here and registered nowhere, so that no settings file can choose them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from nebula_core import Strategy
from nebula_simulate.baselines.aibrix import Aibrix
from nebula_simulate.baselines.at_random import AtRandom
from nebula_simulate.baselines.dynamo import Dynamo
from nebula_simulate.baselines.oracle import Oracle
from nebula_simulate.baselines.round_robin import RoundRobin
from nebula_simulate.baselines.sglang import Sglang
from nebula_simulate.scene import Scene

__all__ = ["BASELINES"]

BASELINES: Mapping[str, Callable[[Scene], Strategy]] = {
    "random": AtRandom,
    "round_robin": lambda scene: RoundRobin(),
    "sglang": Sglang,
    "aibrix": Aibrix,
    "dynamo": Dynamo,
    "oracle": Oracle,
    "oracle3": partial(Oracle, weight=3.0),
}
"""Name → what builds it."""
