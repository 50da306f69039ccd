"""What a terminal shows: whole figures, in as many columns as it has room for."""

import io
from pathlib import Path

import pytest
from nebula_simulate.outcome import Outcome
from nebula_simulate.results import rows
from nebula_simulate.runs import Run, Setup
from nebula_simulate.scaling.compare import Comparison
from nebula_simulate.scaling.replay import Scene
from nebula_simulate.scaling.table import lasting
from nebula_simulate.scaling.table import table as scaled_table
from nebula_simulate.scaling.workloads import Lengths, Random, steps
from nebula_simulate.table import table
from rich.console import Console

NAMES = ("least_pending", "prefix")
TIMES = ("0.512", "0.876", "0.998", "1234", "1889", "1998")


def outcome(requests=1000, refused=0):
    ttft = [place / requests for place in range(requests)]
    ttft = [0.512 if each <= 0.5 else 0.876 if each <= 0.9 else 0.998 for each in ttft]
    ends = {0.512: 1234.0, 0.876: 1889.0, 0.998: 1998.0}
    return Outcome(ttft_s=ttft, e2e_s=[ends[each] for each in ttft], refused=refused, computed=[1, 2], until_s=500.0)


def shown(width, *outcomes):
    found = rows({Run(1.0, name, 0): one.figures(2.0) for name, one in zip(NAMES, outcomes, strict=True)}, NAMES)
    return printed(table(found, Setup(Path("trace.jsonl"), "mooncake"), width), width)


def printed(made, width):
    written = io.StringIO()
    Console(file=written, width=width).print(made, crop=False)
    return written.getvalue()


@pytest.mark.parametrize("width", [40, 80, 100, 140])
def test_figures_are_never_cut_off(width):
    page = shown(width, outcome(), outcome())
    assert "…" not in page
    assert all(time in page for time in TIMES[:3])
    assert TIMES[5] in page
    assert all(len(line) <= max(width, 80) for line in page.splitlines())


def test_a_narrow_terminal_is_told_what_it_does_not_show():
    narrow, wide = (" ".join(shown(width, outcome(), outcome()).split()) for width in (70, 140))
    assert "not shown for lack of width: imbal., E2E p50, E2E p90" in narrow
    assert "imbal. ┃" not in narrow
    assert "not shown" not in wide
    assert all(time in wide for time in TIMES)


def test_a_share_of_requests_that_was_left_out_is_shown_and_never_rounded_away():
    assert "served" not in shown(140, outcome(), outcome())
    page = shown(140, outcome(), outcome(9999, refused=1))
    assert "100.0%" in page
    assert "99.9%" in page
    assert outcome(90, refused=10).figures(2.0)["served"] == 0.9


def test_one_number_of_requests_is_told_as_what_it_is():
    assert "1,000 requests or more" in shown(140, outcome(), outcome(1001))
    assert "seconds; 1,000 requests\n" in shown(140, outcome(), outcome()).replace("  ", "").replace(" \n", "\n")


def test_a_row_of_which_nothing_came_shows_no_zeros():
    page = shown(140, outcome(), outcome(0))
    assert "0.000" not in page
    assert "–" in page


@pytest.mark.parametrize("width", [80, 100, 140])
def test_a_scaled_fleet_fits_too_and_its_steps_stand_below_each_other(width):
    load = steps([1.0, 2.0] * 12, 30.0, Lengths(1000, 200, Random(1)), Random(2))
    comparison = Comparison(load, Scene(boot_s=30.0))
    page = printed(scaled_table(list(comparison.rows(["fixed"])), comparison, width), width)
    assert "…" not in page
    assert "100.00%" in page
    assert all(len(line) <= width for line in page.splitlines())


@pytest.mark.parametrize(("seconds", "said"), [(45, "45 s"), (240, "4 min"), (3540, "59 min"), (9000, "2.5 h")])
def test_a_time_is_told_in_the_unit_in_which_one_would_say_it(seconds, said):
    assert lasting(seconds) == said
