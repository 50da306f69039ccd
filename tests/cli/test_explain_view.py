"""Decisions on a request as text."""

from typing import Any

import pytest
from rich.console import Console

from nebula_core.cli.explain_view import figure, view


def candidate(replica_id: str, **figures: float) -> dict[str, Any]:
    return {"replica_id": replica_id, "figures": figures}


def decision(*candidates: dict[str, Any], picked: str = "1", ago_s: float = 12.0) -> dict[str, Any]:
    base = {"model_uid": "org/m", "strategy": "prefix", "ago_s": ago_s, "picked": picked, "reason": "prefix_hit"}
    return base | {"why": "it holds the most", "figures": {"prompt_bytes": 2048.0}, "candidates": list(candidates)}


def found(*decisions: dict[str, Any], silent: int = 0) -> dict[str, Any]:
    return {"request_id": "r", "decisions": list(decisions), "silent_workers": silent}


def shown(document: dict[str, Any], *, every: bool = False) -> list[str]:
    console = Console(width=200, color_system=None)
    with console.capture() as captured:
        console.print(view(document, every=every))
    return captured.get().splitlines()


def test_a_decision_is_shown_with_what_each_replica_was_weighed_by() -> None:
    near, far = candidate("1", wait_s=0.0125, cached_bytes=1536, load=2), candidate("0", wait_s=1.5, load=0)
    lines = shown(found(decision(near, far)))
    assert lines[0] == "org/m, 12 s ago: prefix picked the replica 1 (prefix_hit)"
    assert lines[1:3] == ["  it holds the most", "  prompt: 2.0 KiB"]
    assert lines[3].split() == ["REPLICA", "WAIT", "CACHED", "LOAD"]
    assert lines[4].split() == ["→", "1", "12.5", "ms", "1.5", "KiB", "2"]
    assert lines[5].split() == ["0", "1.50", "s", "-", "0"]


def test_of_many_replicas_the_first_ones_and_the_picked_one_are_shown() -> None:
    many = decision(*(candidate(str(number), load=number) for number in range(50)), picked="42")
    cut, whole = shown(found(many)), shown(found(many), every=True)
    assert cut[-2].split() == ["→", "42", "42"]
    assert cut[-1].strip() == "and 39 more, which `--all` shows"
    assert (len(cut), len(whole)) == (3 + 1 + 11 + 1, 3 + 1 + 50)


def test_several_decisions_are_numbered_and_silent_workers_are_said() -> None:
    lines = shown(found(decision(picked="0"), decision(), silent=1))
    assert [line[:2] for line in lines if "picked" in line] == ["1.", "2."]
    assert lines[-1].startswith("1 gateway workers did not answer")


def test_ids_are_never_taken_for_markup() -> None:
    assert "[red]x" in shown(found(decision(candidate("[red]x"), picked="[red]x")))[0]


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("wait_s", 0, ("wait", "0.0 ms")),
        ("wait_s", 0.25, ("wait", "250 ms")),
        ("wait_s", 1234.5, ("wait", "1234 s")),
        ("kv_cache_used_bytes", 5 * 1024**3, ("kv cache used", "5.0 GiB")),
        ("cached_bytes", 7, ("cached", "7 B")),
        ("hit_rate", 0.33333, ("hit rate", "0.3333")),
    ],
)
def test_a_figure_is_shown_in_its_unit(name: str, value: float, text: tuple[str, str]) -> None:
    assert figure(name, value) == text
