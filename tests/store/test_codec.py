"""Values in the store: what one version does not know, it does not destroy."""

from __future__ import annotations

import json

import pytest

from nebula_core.errors import StoreError
from nebula_core.store.codec import decode, encode
from nebula_core.types import EndpointStats, ModelRequest

REQUEST = ModelRequest(model_uid="Qwen/Qwen3-8B", engine="vllm", engine_args={"dtype": "auto"})


def test_a_value_comes_back_as_it_was():
    assert decode(ModelRequest, encode(REQUEST)) == REQUEST


def test_an_unknown_signal_stays_unknown():
    assert decode(EndpointStats, encode(EndpointStats(pending=0.0))) == EndpointStats(pending=0.0, running=None)


def test_fields_of_a_newer_version_survive_a_rewrite():
    newer = json.dumps({**json.loads(encode(REQUEST)), "schema_version": 3, "priority": 7, "replicas": 5}).encode()
    rewritten = json.loads(encode(REQUEST, over=newer))
    assert (rewritten["schema_version"], rewritten["priority"], rewritten["replicas"]) == (3, 7, 1)
    assert decode(ModelRequest, newer).replicas == 5


def test_a_key_taken_out_of_a_table_stays_out():
    without = ModelRequest(model_uid="Qwen/Qwen3-8B", engine="vllm")
    assert decode(ModelRequest, encode(without, over=encode(REQUEST))).engine_args == {}


@pytest.mark.parametrize("old", [b"", b"not json", b"[1]", b'{"schema_version": "x"}', b"\xff", b'{"color": "\xff"}', b"[" * 100_000])
def test_what_cannot_be_read_is_written_over(old: bytes):
    assert encode(REQUEST, over=old) == encode(REQUEST)


@pytest.mark.parametrize(
    "data", [b"", b"not json", b"[1]", b'{"engine": "vllm"}', b"\xff", b'{"model_uid": "\xff"}', b'{"x":' + b"[" * 100_000]
)
def test_what_is_no_such_value_is_refused_by_name(data: bytes):
    with pytest.raises(StoreError, match="not a ModelRequest"):
        decode(ModelRequest, data)
