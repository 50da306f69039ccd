"""Replicas come and go under traffic, and no request is lost, sent a second time, or cut short."""

from __future__ import annotations

import re
from itertools import cycle, islice

import pytest

from nebula_core.admin.client import AdminClient
from nebula_core.testing.campaigns import rounds
from nebula_core.testing.waiting import eventually

MODEL = '[[models]]\nmodel_uid = "m"\nengine = "fake"\nword_s = 0.01\nthink_s = 0.01\n'
NUMBERS = (3, 1, 4, 2)
CHANGES = rounds(16, 50)


def is_settled(admin: AdminClient, number: int) -> bool:
    model = admin.model("m")
    return [replica["state"] for replica in model["replicas"]] == ["ready"] * number == ["ready"] * model["wanted"]


def undrained(log: str) -> list[str]:
    """The replicas that were stopped without having been drained since their start."""
    found, drained = [], set()
    for replica, deed in re.findall(r"(m/\d+): (starting its engine|draining|stopping its engine)", log):
        if deed == "draining":
            drained.add(replica)
        elif deed == "starting its engine":
            drained.discard(replica)
        elif replica not in drained:
            found.append(replica)
    return found


@pytest.mark.timeout(300)
@pytest.mark.parametrize("workers", [1, 2])
def test_no_request_is_lost_over_many_scale_ups_and_downs(make_nebula, fake_engines, traffic, workers):
    nebula = make_nebula(MODEL, workers=workers, python_path=fake_engines).start()
    with traffic(nebula) as seen:
        for number in islice(cycle(NUMBERS), CHANGES):
            nebula.admin.scale("m", number)
            eventually(lambda: is_settled(nebula.admin, number), 30, nebula.log.read_text)  # noqa: B023
        retries = next(family for family in nebula.admin.metrics()["families"] if family["name"] == "nebula_retry_total")
    log = nebula.log.read_text()
    assert seen.lost == []
    assert seen.answered > CHANGES
    assert retries["samples"] == []
    assert log.count("stopping its engine as planned") >= CHANGES
    assert undrained(log) == []
