"""The status of a Nebula as text: models, their replicas, and under each what keeps it from being ready; nodes; gateways; scheduler."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from nebula_core.cli.nodes_view import state as node_state
from nebula_core.cli.output import columns, state_text

Document = Mapping[str, Any]
MIB = 1024 * 1024
MODEL_TITLES = ("MODEL", "STATE", "READY", "ENGINE", "STRATEGY", "ALIASES")


def view(status: Document) -> Group:
    """The whole status."""
    parts = [_store(status["store"]), _models(status["models"]), _nodes(status["nodes"]), _gateways(status["gateways"]), _scheduler(status)]
    return Group(*(line for part in parts for line in part))


def model_table(models: Sequence[Document]) -> Group:
    """Models, a line each and what there is to say of them, without their replicas."""
    if not models:
        return Group(Text("No models. `nebula models load MODEL --engine ENGINE` loads one.", style="dim"))
    title, *lines = _table(MODEL_TITLES, [_model_cells(model) for model in models])
    return Group(title, *(part for model, line in zip(models, lines, strict=True) for part in (line, *_model_notes(model))))


def why(model: Document) -> Iterator[str]:
    """What keeps a model from being ready, said once each: the scheduler's reasons, then its replicas'."""
    reasons = [*model.get("reasons", ()), *(replica["reason"] for replica in model["replicas"] if replica.get("reason"))]
    return iter(dict.fromkeys(reasons))


def _models(models: Sequence[Document]) -> Iterator[RenderableType]:
    if not models:
        yield from model_table(models).renderables
        return
    title, *lines = _table(MODEL_TITLES, [_model_cells(model) for model in models])
    replicas = iter(columns([_replica_cells(replica) for model in models for replica in model["replicas"]] or [()]))
    yield title
    for model, line in zip(models, lines, strict=True):
        yield line
        yield from _model_notes(model)
        for replica in model["replicas"]:
            yield Padding(next(replicas), (0, 0, 0, 2), expand=False)
            yield from _notes(_replica_notes(replica), 4)


def _model_notes(model: Document) -> Iterator[RenderableType]:
    yield from _notes(model.get("reasons", ()), 2)
    yield from _notes([f"{what}: {model[what]}" for what in ("routing", "scaling") if model.get(what)], 2)
    inputs = model.get("scaling_inputs") or {}
    yield from _notes([", ".join(f"{name} {_number(value)}" for name, value in inputs.items())] if inputs else [], 4)


def _number(value: float | None) -> str:
    return "not known" if value is None else f"{value:.4g}"


def _replica_notes(replica: Document) -> Iterator[str]:
    if replica.get("reason"):
        yield replica["reason"]
    if replica.get("replaces"):
        yield f"it replaces replica {replica['replaces']}, which serves until it is ready"
    if replica.get("replaced_by"):
        yield f"replica {replica['replaced_by']} replaces it once that is ready"


def _model_cells(model: Document) -> list[str | Text]:
    count = f"{model['ready']}/{model['wanted']}"
    rest = (model["engine"], model.get("strategy", ""), ", ".join(model.get("aliases", ())))
    return [Text(model["model_uid"], style="bold"), state_text(model["state"]), count, *rest]


def _replica_cells(replica: Document) -> list[str | Text]:
    where = replica.get("url") or "-"
    return [replica["replica_id"], state_text(replica["state"]), replica["node_id"], where, _load(replica.get("stats") or {})]


def _load(stats: Document) -> str:
    """What a replica is busy with; signals that are not known are left out."""
    parts = [f"{stats[signal]:.0f} {signal}" for signal in ("running", "pending") if stats.get(signal) is not None]
    if stats.get("kv_cache_usage") is not None:
        parts.append(f"KV cache {stats['kv_cache_usage']:.0%}")
    return ", ".join(parts)


def _nodes(nodes: Sequence[Document]) -> Iterator[RenderableType]:
    if nodes:
        rows = [[node["node_id"], node_state(node), node["address"], ", ".join(node["engines"]), _gpus(node["gpus"])] for node in nodes]
        yield Text()
        yield from _table(("NODE", "STATE", "ADDRESS", "ENGINES", "GPUS"), rows)


def _gpus(gpus: Sequence[Document]) -> str:
    return ", ".join(_gpu(gpu) for gpu in gpus) or "none"


def _gpu(gpu: Document) -> str:
    used, total = gpu.get("memory_used_bytes"), gpu.get("memory_total_bytes")
    memory = "" if used is None or total is None else f" {used / MIB:.0f}/{total / MIB:.0f} MiB"
    return f"{gpu['index']}: {gpu.get('name') or 'GPU'}{memory}"


def _gateways(gateways: Sequence[Document]) -> Iterator[RenderableType]:
    if gateways:
        rows = [[gateway["gateway_id"], gateway["address"], str(sum(gateway["demand"].values()))] for gateway in gateways]
        yield Text()
        yield from _table(("GATEWAY", "ADDRESS", "REQUESTS"), rows)


def _scheduler(status: Document) -> Iterator[RenderableType]:
    if "/leader/scheduler" in status["store"].get("never_read", ()):
        return
    problem = status.get("scheduler_problem") or "none leads: nothing is placed, moved or scaled; `nebula scheduler` starts one"
    yield Text()
    yield from _table(("SCHEDULER",), [[status["scheduler"] or Text(problem, style="red")]])


def _store(store: Document) -> Iterator[RenderableType]:
    """How old everything is that follows, if the store is silent."""
    if store["connected"]:
        return
    since = f" since {_time(store['silent_since'])}" if store.get("silent_since") else ""
    yield Text(f"The {store['kind']} store does not answer{since}: what follows is the last that was known.", style="red")
    if store.get("read_at"):
        yield Text(f"What this process does not follow itself was last read at {_time(store['read_at'])}.", style="red")
    if store.get("never_read"):
        yield Text(f"This process never read {', '.join(store['never_read'])}: what lies there is not shown.", style="red")
    yield Text()


def _time(unix_s: float) -> str:
    return f"{datetime.fromtimestamp(unix_s).astimezone():%Y-%m-%d %H:%M:%S %Z}"


def _table(titles: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> list[Text]:
    return columns([[Text(title, style="dim") for title in titles], *rows])


def _notes(notes: Iterable[str], indent: int) -> Iterator[RenderableType]:
    for line in (line for note in notes for line in note.rstrip().splitlines()):
        yield Padding(Text(line, style="dim"), (0, 0, 0, indent), expand=False)
