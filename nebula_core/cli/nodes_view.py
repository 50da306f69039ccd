"""Nodes as text: a line each, and under it what is on it and its GPUs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from nebula_core.cli.output import columns

Document = Mapping[str, Any]
GIB = 2**30
TITLES = ("NODE", "STATE", "ADDRESS", "REPLICAS", "GPUS", "ENGINES", "LABELS")


def node_list(nodes: Sequence[Document]) -> Group:
    """All nodes with their GPUs and replicas."""
    if not nodes:
        return Group(Text("No nodes. `nebula node` on a machine makes it one; `nebula up` is one, too.", style="dim"))
    title, *lines = columns([[Text(name, style="dim") for name in TITLES], *map(_cells, nodes)])
    gpus = iter(columns([_gpu(gpu) for node in nodes for gpu in node["gpus"]] or [()]))
    parts: list[RenderableType] = [title]
    for node, line in zip(nodes, lines, strict=True):
        parts += [line, *(_indented(next(gpus)) for _ in node["gpus"]), *map(_indented, _replicas(node))]
    return Group(*parts)


def state(node: Document) -> Text:
    """Whether a node is up, and what is asked of it."""
    text = Text("up", style="green") if node["up"] else Text("missing", style="red")
    if asked := what_is_asked(node):
        text.append(f", {asked}", style="yellow")
    return text


def what_is_asked(node: Document) -> str:
    """What an operator asks of a node; empty: nothing. Whoever is drained or given up is cordoned with it, and drained only once empty."""
    words = (("drained", "draining" if node["up"] and node.get("assigned") else "drained"), ("given_up", "given up"))
    strongest = [word for key, word in words if node.get(key)]
    return ", ".join(strongest or ["cordoned"] if node.get("cordoned") or strongest else [])


def replica_lines(replicas: Sequence[Document]) -> list[str]:
    """The replicas of a node, how far they are, and what there is to say about them: once for those that are alike."""
    alike: dict[tuple[str, str], list[str]] = {}
    for replica in replicas:
        alike.setdefault((replica["state"], replica["reason"]), []).append(f"{replica['model_uid']}/{replica['replica_id']}")
    return [f"{', '.join(names)} {state}{': ' if reason else ''}{reason}" for (state, reason), names in alike.items()]


def _cells(node: Document) -> list[str | Text]:
    labels = ", ".join(f"{name}={value}" for name, value in sorted(node["labels"].items()))
    counts = [str(len(node["assigned"])), str(len(node["gpus"]))] if node["up"] else [str(len(node["assigned"])), ""]
    return [Text(node["node_id"], style="bold"), state(node), node["address"], *counts, ", ".join(node["engines"]), labels]


def _gpu(gpu: Document) -> list[str | Text]:
    errors = gpu.get("ecc_errors")
    fault = Text(f"{errors} memory error{'' if errors == 1 else 's'}: gets no replicas", style="red") if errors else Text()
    return [f"GPU {gpu['index']}", gpu.get("name") or "", _memory(gpu), fault]


def _memory(gpu: Document) -> str:
    used, total = gpu.get("memory_used_bytes"), gpu.get("memory_total_bytes")
    if total is None:
        return "memory not known"
    return f"{total / GIB:.1f} GiB" if used is None else f"{(total - used) / GIB:.1f} of {total / GIB:.1f} GiB free"


def _replicas(node: Document) -> Iterator[Text]:
    for replicas in replica_lines(node["assigned"]):
        yield from (Text(line, style="dim") for line in replicas.splitlines())


def _indented(line: Text) -> Padding:
    return Padding(line, (0, 0, 0, 2), expand=False)
