"""The readers see the same whatever pieces the network makes of the bytes."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula_core.gateway.data_path.answer_reader import AnswerReader, BadAnswerError
from nebula_core.gateway.data_path.known_heads import MOST_ANSWER_HEADS
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


def read(pieces, known=None):
    reader = RequestReader(lambda request: None, {} if known is None else known, 2000, 1000)
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


def told(reader):
    head = reader.head
    return head and (head.status, head.lines, head.top, head.streams, head.chunked, head.keep_alive)


@pytest.mark.parametrize("surplus", [b"", b"garbage", b"HTTP/1.1 500 Bad\r\nx: y\r\ncontent-length: 3\r\n\r\nbad"])
@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_split_at_every_byte_is_the_same_answer(answer, surplus):
    def outcome(pieces):
        reader = AnswerReader({})
        body = b"".join([reader.feed(piece) for piece in pieces])
        assert reader.complete
        return body, told(reader), reader.length

    whole = outcome([answer])
    assert outcome([answer + surplus]) == whole
    for place in range(1, len(answer)):
        assert outcome([answer[:place], answer[place:] + surplus]) == whole


@given(st.binary(max_size=100), st.sampled_from(ANSWERS), st.integers(0, 60))
def test_whatever_an_engine_sends_is_an_answer_or_a_bad_answer(noise, answer, place):
    reader = AnswerReader({})
    try:
        reader.feed(answer[:place] + noise + answer[place:])
    except BadAnswerError:
        assert not reader.complete


@given(st.binary(max_size=100), st.sampled_from(REQUESTS), st.integers(0, 60))
def test_whatever_a_client_sends_is_read_or_refused(noise, request_, place):
    for refused in (r for r in read([request_[:place] + noise + request_[place:]]) if r[-1]):
        assert refused[-1] in (400, 405, 413, 431)


def seen(request):
    """A request without the one field that a known head does not tell again."""
    fields = {name: value for name, value in request[2].items() if name != b"content-length"}
    return *request[:2], fields, *request[3:]


HEADS = (
    POST,
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nConnection: keep-alive\r\nx-request-id: a\r\n",
    b"POST http://g/v1/x HTTP/1.1\r\nHost: g\r\nConnection: x-a\r\nX-A: b\r\nX-Content-Length: 5\r\n",
    b"\r\nPOST /v1/x HTTP/1.1\r\nHost: g\r\nX: a\r\n",
    b"GET /v1/models HTTP/1.1\r\nhost: g\r\n\r\nPOST /v1/x HTTP/1.1\r\nHost: g\r\n",
    b"POST /v1/x HTTP/1.1\r\nHost: g\r\nconnection: close\r\n",
    b"POST /v1/x HTTP/1.0\r\nconnection: keep-alive\r\n",
    b"POST /v1/x HTTP/1.1\r\nHost: g\r\nExpect: 100-continue\r\n",
    b"POST /v1/x HTTP/1.1\r\nHost: g\r\nconnection: Upgrade\r\nupgrade: h2c\r\n",
    b"POST /v1/x HTTP/1.1\r\nHost: g\r\ntransfer-encoding: chunked\r\n",
    b"POST /v1/x HTTP/1.1\r\nHost: g\r\nContent-Length: 7\r\n",
    b"GET /v1/models HTTP/1.1\r\nHost: g\r\n",
)
BODIES = (b"", b"hello", b"a" * 900, b"a" * 1001, b"0\r\n\r\n", b"hello, hello\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\nhello")
messages = st.builds(
    lambda head, name, body, stated, behind: head + b"%b: %d\r\n\r\n" % (name, len(body) + stated) + body + behind,
    st.sampled_from(HEADS),
    st.sampled_from((b"content-length", b"Content-Length", b"CONTENT-LENGTH")),
    st.sampled_from(BODIES),
    st.sampled_from((0, 0, 0, 0, -1, 1)),
    st.sampled_from((b"", b"", b"", b"\r\n", b"POST", REQUESTS[2])),
)


@given(st.lists(messages, max_size=6), st.lists(messages, min_size=1, max_size=3))
def test_what_was_read_before_changes_nothing_in_what_is_read(before, pieces):
    known = {}
    for piece in before:
        read([piece], known)
    assert [seen(request) for request in read(pieces, known)] == [seen(request) for request in read(pieces)]


def test_a_head_that_comes_again_is_not_parsed_again():
    known = {}
    first = read([POST + b"content-length: 5\r\n\r\nhello"], known)
    [again] = read([POST + b"content-length: 12\r\n\r\nhello, again"], known)
    assert b"content-length" not in again[2]  # nobody has asked the parser
    assert seen(again)[:4] == seen(first[0])[:4]
    assert again[4] == b"hello, again"


def test_a_body_in_chunks_of_one_byte_takes_no_more_memory_than_its_bytes():
    reader = RequestReader(lambda request: None, {}, 2000, 200_000)
    reader.feed(POST + b"transfer-encoding: chunked\r\n\r\n")
    tracemalloc.start()
    try:
        for _ in range(1000):
            reader.feed(b"1\r\na\r\n" * 100)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 200_000
    reader.feed(b"0\r\n\r\n")
    assert reader.ready[0].body == b"a" * 100_000


def test_nothing_is_pending_after_a_known_head_even_where_a_line_end_came_before_it():
    reader = RequestReader(lambda request: None, {}, 2000, 1000)
    asked = POST + b"content-length: 5\r\n\r\nhello"
    for piece in (asked, b"\r\n", asked):
        reader.feed(piece)
    assert b"content-length" not in reader.ready[-1].fields  # the parser was not asked
    assert reader.between


def test_line_ends_between_requests_do_not_add_up():
    reader = RequestReader(lambda request: None, {}, 2000, 1000)
    for _ in range(3000):
        reader.feed(POST + b"content-length: 5\r\n\r\nhello")
        reader.feed(b"\r\n")
    reader.feed(b"POST /v1")
    assert not reader.ended


ANSWER_HEADS = (
    b"HTTP/1.1 200 OK\r\nserver: s\r\n",
    b"HTTP/1.1 200 OK\r\nServer: s\r\nConnection: close\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 100 Continue\r\n",
    b"HTTP/1.1 204 No\r\n",
    b"HTTP/1.1 304 Same\r\n",
    b"HTTP/1.0 200 OK\r\nx: a\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n",
    b"HTTP/1.1 101 Other\r\nconnection: upgrade\r\nupgrade: h2c\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n",
)
answers = st.builds(
    lambda head, name, body, stated, behind: head + b"%b: %d\r\n\r\n" % (name, len(body) + stated) + body + behind,
    st.sampled_from(ANSWER_HEADS),
    st.sampled_from((b"content-length", b"Content-Length")),
    st.sampled_from(BODIES),
    st.sampled_from((0, 0, 0, 0, -1, 1)),
    st.sampled_from((b"", b"", b"", b"\r\n", b"garbage", ANSWERS[0])),
)


def outcome_of(pieces, reader):
    body = b""
    try:
        for piece in pieces:
            body += reader.feed(piece)
    except BadAnswerError:
        return "bad"
    return body, told(reader), reader.length, reader.complete, reader.surplus, reader.ends_with_connection


@given(st.lists(answers, max_size=6), answers, st.booleans())
def test_what_was_answered_before_changes_nothing_in_an_answer(before, answer, torn):
    known = {}
    reader = AnswerReader(known)
    for one in before:
        outcome_of([one], reader)
        if reader.complete and reader.head.keep_alive and not reader.surplus:
            reader.reset()
        else:
            reader = AnswerReader(known)
    pieces = [answer[:30], answer[30:]] if torn else [answer]
    assert outcome_of(pieces, reader) == outcome_of(pieces, AnswerReader({}))


def test_an_answer_with_a_known_head_is_read_without_the_parser():
    known = {}
    for reader in (AnswerReader(known), AnswerReader(known)):  # one learns, the other has learned
        for body in (b"", b"a", b"a" * 9, b"a" * 10, b"a" * 99, b"a" * 100, b"a" * 12_345):
            assert reader.feed(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nx: y\r\n\r\n%b" % (len(body), body)) == body
            assert reader.complete
            assert reader.length == b"%d" % len(body)
            reader.reset()
    assert len(known) == 1


def test_of_an_engines_heads_only_a_few_are_kept_for_they_bear_the_time():
    known = {}
    reader = AnswerReader(known)
    for second in range(100):
        reader.feed(b"HTTP/1.1 200 OK\r\ndate: %d\r\ncontent-length: 5\r\n\r\nhello" % second)
        reader.reset()
    assert 0 < len(known) <= MOST_ANSWER_HEADS
