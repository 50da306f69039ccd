"""What one request costs, counted: calls of Nebula's Python functions on the warm path, which are the same on every machine.

A call takes 0.05 to 0.1 us, and most work comes in calls, so that a test of their number fails when somebody puts work on the path of
every request or, worse, of every event. If it failed for you:

1. See what is new: print `calls` in `hot_path.py` before and after your change, it counts by function.
2. Take the work off the path if that can be: do it once per connection, per change of the table, or per sweep.
3. If what it buys is worth its cost to every request, say so in the commit, measure it with the benchmark, and raise the number here.

Where a change brings the number down, bring it down here as well.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

JSON_REQUEST = 90
"""Calls for one JSON request and its answer, with the default strategy, metrics and request ids. One says where to read to."""
STREAM = 106
"""Calls for a stream whose events all come at once."""
EVENT = 10
"""Calls for each event that comes by itself. One of them says where to read to, and costs no more than what uvloop would do without it.
Four write it together with others, which saves more than they cost: `outbox.py` has the figures."""

SLACK = 1.02
"""The strategy does some of its sums only now and then."""


@pytest.fixture(scope="module")
def calls() -> dict[str, float]:
    """In a process of its own, on the sources: what is compiled makes no calls that could be counted."""
    here = Path(__file__).parent
    counted = subprocess.run([sys.executable, here / "interpreted.py", here / "hot_path.py"], check=True, stdout=subprocess.PIPE)
    return json.loads(counted.stdout)


def test_a_json_request_takes_no_more_calls_than_it_did(calls):
    assert calls["json_request"] <= JSON_REQUEST * SLACK


def test_a_stream_takes_no_more_calls_than_it_did(calls):
    assert calls["stream"] <= STREAM * SLACK


def test_an_event_takes_no_more_calls_than_it_did(calls):
    assert calls["event"] <= EVENT * SLACK
