"""What the benchmarks beside this file let one choose: which scenarios, of which traces, into which folder."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeVar


class Named(Protocol):
    """A scenario."""

    @property
    def name(self) -> str:
        """Names its files."""
        ...


Scenario = TypeVar("Scenario", bound=Named)


def parser(description: str | None, out: str, quick: str) -> argparse.ArgumentParser:
    """The options that both have. `out` is the folder of results unless another is named, `quick` says what `--quick` comes to."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--traces", type=Path, default=os.environ.get("NEBULA_TRACES"), help="folder of the traces; or NEBULA_TRACES")
    made.add_argument("--out", type=Path, default=Path(out), help=f"folder of the results (default: {out})")
    made.add_argument("--quick", action="store_true", help=quick)
    made.add_argument("--only", action="append", help="a scenario by name; may be given more than once")
    return made


def chosen(parser: argparse.ArgumentParser, only: Sequence[str] | None, scenarios: Sequence[Scenario]) -> list[Scenario]:
    """Those that `--only` names, or all. Ends the program if there is none of a name."""
    names = [scenario.name for scenario in scenarios]
    if unknown := set(only or ()) - set(names):
        parser.error(f"--only {', '.join(sorted(unknown))}: the scenarios are {', '.join(names)}")
    return [scenario for scenario in scenarios if not only or scenario.name in only]
