"""The readers see the same whatever pieces the network makes of the bytes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula_core.gateway.data_path.answer_reader import AnswerReader, BadAnswerError
from nebula_core.gateway.data_path.request_reader import RequestReader

POST = b"POST /v1/x?a=b HTTP/1.1\r\nhost: g\r\nX-Empty:\r\nContent-Type: application/json\r\n"
REQUESTS = (
    b"GET /v1/models HTTP/1.1\r\nhost: g\r\n\r\n",
    b"GET /health HTTP/1.0\r\n\r\n",
    POST + b"content-length: 5\r\n\r\nhello",
    POST + b"transfer-encoding: chunked\r\n\r\n2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nx-trailer: 1\r\n\r\n",
    POST + b"connection: Upgrade\r\nupgrade: h2c\r\ncontent-length: 5\r\n\r\nhello",
    POST + b"connection: Upgrade\r\nupgrade: h2c\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    POST + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    POST + b"content-length: 2000\r\n\r\n" + b"a" * 2000,
    POST + b"transfer-encoding: chunked\r\n\r\n7d0\r\n" + b"a" * 2000 + b"\r\n0\r\n\r\n",
    b"POST /x HTTP/1.1\r\nhost: g\r\nx: " + b"a" * 3000 + b"\r\n\r\n",
    b"nonsense\r\n\r\n",
)


def read(pieces):
    reader = RequestReader(lambda request: None, 2000, 1000)
    for piece in pieces:
        if not reader.ended:
            reader.feed(piece)
    return [
        (r.method, r.target, r.fields, r.lines, r.body, r.keep_alive, r.http10, r.refusal.status if r.refusal else None)
        for r in reader.ready
    ]


def cut(data, places):
    edges = [0, *sorted(places), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


@pytest.mark.parametrize("number", range(len(REQUESTS) - 2))  # a refusal of the last two may carry more or less of the head
def test_a_request_split_at_every_byte_is_the_same_request(number):
    data = REQUESTS[number]
    whole = read([data])
    assert len(whole) == 1
    assert read([data[i : i + 1] for i in range(len(data))]) == whole
    for place in range(1, min(len(data), 250)):
        assert read(cut(data, [place])) == whole


@given(st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=5), st.data())
def test_any_split_of_a_pipeline_gives_the_same_requests(requests, data):
    stream = b"".join(requests)
    places = data.draw(st.lists(st.integers(0, len(stream)), max_size=8))
    assert [r[:2] + r[4:5] + r[-1:] for r in read(cut(stream, places)) if r[-1] != 431] == [
        r[:2] + r[4:5] + r[-1:] for r in read([stream]) if r[-1] != 431
    ]


ANSWERS = (
    b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 No\r\nX-A:\r\nx-a: 2\r\ncontent-length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nx-trailer: 1\r\n\r\n",
    b"HTTP/1.1 204 No\r\n\r\n",
)


@pytest.mark.parametrize("surplus", [b"", b"garbage", b"HTTP/1.1 500 Bad\r\nx: y\r\ncontent-length: 3\r\n\r\nbad"])
@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_split_at_every_byte_is_the_same_answer(answer, surplus):
    def outcome(pieces):
        reader = AnswerReader()
        body = b"".join([reader.feed(piece) for piece in pieces])
        assert reader.complete
        return body, reader.status, reader.fields, reader.lines, reader.keep_alive

    whole = outcome([answer])
    assert outcome([answer + surplus]) == whole
    for place in range(1, len(answer)):
        assert outcome([answer[:place], answer[place:] + surplus]) == whole


@given(st.binary(max_size=100), st.sampled_from(ANSWERS), st.integers(0, 60))
def test_whatever_an_engine_sends_is_an_answer_or_a_bad_answer(noise, answer, place):
    reader = AnswerReader()
    try:
        reader.feed(answer[:place] + noise + answer[place:])
    except BadAnswerError:
        assert not reader.complete


@given(st.binary(max_size=100), st.sampled_from(REQUESTS), st.integers(0, 60))
def test_whatever_a_client_sends_is_read_or_refused(noise, request_, place):
    for refused in (r for r in read([request_[:place] + noise + request_[place:]]) if r[-1]):
        assert refused[-1] in (400, 405, 413, 431)
