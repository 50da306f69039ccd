"""What is read of each format, and how a file that cannot be read is told."""

import json
import tarfile

import pytest
import zstandard
from nebula_simulate.errors import TraceError
from nebula_simulate.traces import guess, read

MOONCAKE = (
    {"timestamp": 3000, "input_length": 1300, "output_length": 20, "hash_ids": [0, 7, 8]},
    {"timestamp": 0, "input_length": 100, "output_length": 1, "hash_ids": [9]},
)
CALL = {"type": "n", "in": 1100, "out": 30, "hash_ids": list(range(1, 18))}
WEKA = (
    {
        "block_size": 64,
        "requests": [
            {"t": 0.0, "api_time": 2.0, "think_time": 0.0, **CALL},
            {"t": 9.0, "api_time": 1.0, "think_time": 5.0, **CALL},
            {"t": 20.0, "type": "subagent", "requests": [{"t": 1.0, "api_time": 4.0, **CALL}]},
        ],
    },
)
TEXT = "".join(f"word {number} " for number in range(400))
LMCACHE = (
    {"timestamp": 9_000_000, "session_id": "a", "input": TEXT, "output": "and so on"},
    {"timestamp": 5_000_000, "session_id": "b", "input": "other", "output": ""},
    {"timestamp": 6_500_000, "session_id": "a", "input": TEXT[:2500], "output": "four"},
)
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.1805900,1100,9\n"


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def packed(folder, path):
    with zstandard.open(path, "wb") as stream, tarfile.open(fileobj=stream, mode="w|") as archive:
        archive.add(folder, folder.name)
    return path


def test_mooncake_keeps_the_whole_blocks_of_a_prompt(tmp_path):
    trace = read(write(tmp_path / "m.jsonl", MOONCAKE), "mooncake")
    first, second = (session.turns[0] for session in trace.sessions)
    assert [session.start_s for session in trace.sessions] == [3.0, 0.0]
    assert (first.prompt_tokens, first.output_tokens, list(first.blocks)) == (1300, 20, [0, 7])
    assert list(second.blocks) == []
    assert trace.length_s == 6.0


def test_a_trace_begins_with_its_first_request_whatever_its_clock_says(tmp_path):
    epoch = [{**row, "timestamp": row["timestamp"] + 1_700_000_000_000} for row in MOONCAKE]
    assert [session.start_s for session in read(write(tmp_path / "m.jsonl", epoch), "mooncake").sessions] == [3.0, 0.0]

    calls = [{"t": 1.7e9 + second, "api_time": 2.0, **CALL} for second in (0, 9)]
    [session] = read(write(tmp_path / "w.jsonl", [{"requests": calls}]), "weka").sessions
    assert [turn.pause_s for turn in session.turns] == [0.0, 7.0]


def test_ids_of_mooncake_may_have_all_64_bits(tmp_path):
    rows = [{**MOONCAKE[0], "hash_ids": [2**63 + 5, 2**64 - 1]}, {**MOONCAKE[0], "hash_ids": [5, 2**63 - 1]}]
    first, second = (session.turns[0].blocks for session in read(write(tmp_path / "m.jsonl", rows), "mooncake").sessions)
    assert not set(first) & set(second)


def test_weka_sessions_think_between_their_turns_and_wait_for_their_sub_agents(tmp_path):
    trace = read(write(tmp_path / "w.jsonl", WEKA), "weka")
    turns = trace.sessions[0].turns
    assert not trace.timed
    assert [turn.pause_s for turn in turns] == [0.0, 5.0, 11.0]
    assert [list(turn.blocks) for turn in turns] == [[8, 16]] * 3


def test_azure_tells_arrivals_and_lengths_alone(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(AZURE)
    trace = read(path, "azure")
    assert [session.start_s for session in trace.sessions] == [0.0, 3.5]
    assert [(turn.prompt_tokens, turn.output_tokens, turn.blocks) for session in trace.sessions for turn in session.turns] == [
        (374, 44, None),
        (1100, 9, None),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + AZURE,
        AZURE.replace("TIMESTAMP,ContextTokens,GeneratedTokens", '"TIMESTAMP","ContextTokens","GeneratedTokens"').replace("374", '"374"'),
        AZURE.replace("46.6805900", "46.680590+00:00"),
        AZURE.replace("46.6805900", "46.6805900Z").replace("18:15:50.1805900", "20:15:50.1805900+02:00"),
        AZURE.replace("46.6805900", "46").replace("50.1805900", "49.5+00:00"),
    ],
)
def test_azure_may_be_quoted_have_a_byte_order_mark_and_tell_its_zone(tmp_path, text):
    path = tmp_path / "a.csv"
    path.write_text(text)
    assert [session.start_s for session in read(path, guess(path)).sessions] == [0.0, 3.5]


def test_lmcache_sessions_share_the_blocks_of_equal_texts(tmp_path):
    trace = read(write(tmp_path / "l.jsonl", LMCACHE), "lmcache")
    (first, second), (other,) = (session.turns for session in trace.sessions)
    assert not trace.timed
    assert [(turn.pause_s, turn.prompt_tokens, turn.output_tokens) for turn in (first, second, other)] == [
        (0.0, 625, 1),
        (2.5, -(-len(TEXT) // 4), 3),
        (0.0, 2, 0),
    ]
    assert list(first.blocks) == list(second.blocks)[:1]
    assert (len(second.blocks), len(set(second.blocks)), list(other.blocks)) == (len(TEXT) // 2048, len(TEXT) // 2048, [])


def test_an_archive_of_sessions_is_read_as_it_is_and_a_broken_line_told_with_its_file(tmp_path):
    sessions = tmp_path / "sessions"
    sessions.mkdir()
    write(sessions / "a.jsonl", LMCACHE[::2])
    write(sessions / "b.jsonl", LMCACHE[1:2])
    whole = packed(sessions, tmp_path / "whole.tar.zst")
    assert guess(whole) == "lmcache"
    assert [len(session.turns) for session in read(whole, "lmcache").sessions] == [2, 1]

    write(sessions / "b.jsonl", [LMCACHE[1], {**LMCACHE[1], "input": ""}])
    with pytest.raises(TraceError, match=r"broken\.tar\.zst, sessions/b\.jsonl, line 2: 0 tokens in"):
        read(packed(sessions, tmp_path / "broken.tar.zst"), "lmcache")

    cut = tmp_path / "cut.tar.zst"
    cut.write_bytes(whole.read_bytes()[:-40])
    with pytest.raises(TraceError, match=r"not a whole \.tar\.zst file"):
        read(cut, "lmcache")


def test_a_compressed_file_is_read_as_it_is(tmp_path):
    path = tmp_path / "w.jsonl.zst"
    path.write_bytes(zstandard.compress(write(tmp_path / "w.jsonl", WEKA).read_bytes()))
    assert len(read(path, "weka").sessions[0].turns) == 3


@pytest.mark.parametrize(
    ("name", "text"),
    [("mooncake", json.dumps(MOONCAKE[0])), ("weka", json.dumps(WEKA[0])), ("azure", AZURE), ("lmcache", json.dumps(LMCACHE[0]))],
)
def test_a_format_is_told_by_its_first_line(tmp_path, name, text):
    path = tmp_path / "trace"
    path.write_text("\n" + text)
    assert guess(path) == name


@pytest.mark.parametrize(
    ("name", "good", "broken", "said"),
    [
        ("mooncake", json.dumps(MOONCAKE[0]), '{"timestamp": 0}', "input_length"),
        ("mooncake", json.dumps(MOONCAKE[0]), '{"timestamp": 0, "input', "malformed"),
        ("mooncake", json.dumps(MOONCAKE[0]), json.dumps({**MOONCAKE[0], "input_length": -4}), "-4 tokens in"),
        ("weka", json.dumps(WEKA[0]), '{"requests": []}', "without requests"),
        ("weka", json.dumps(WEKA[0]), '{"requests": [], "block_size": 48}', "does not divide"),
        ("lmcache", json.dumps(LMCACHE[0]), '{"timestamp": 0, "session_id": "a"}', "input"),
        ("azure", AZURE.splitlines()[1], "2023-11-16 18:15:46,374", "2 fields"),
        ("mooncake", json.dumps(MOONCAKE[0]), json.dumps({**MOONCAKE[0], "hash_ids": [1, 2**64]}), "has more than 64 bits"),
        ("weka", json.dumps(WEKA[0]), '{"requests": [' + '{"t": 0, "type": "subagent", "requests": [' * 9000, "nested too deeply"),
        ("azure", AZURE.splitlines()[1], "yesterday,374,44", "yesterday"),
        ("azure", AZURE.splitlines()[1], "2023-11-16 18:15:46.680590 garbage,374,44", "garbage' is no time such as"),
        ("azure", AZURE.splitlines()[1], "2023-11-16 18:15:46.680590,1_000,44", "'1_000' is no number of tokens"),
        ("azure", AZURE.splitlines()[1], '2023-11-16 18:15:46.680590,"374,44', "unexpected end of data"),
    ],
)
def test_a_broken_line_is_named(tmp_path, name, good, broken, said):
    path = tmp_path / "trace"
    path.write_text(f"{good}\n\n{broken}\n{good}\n")
    with pytest.raises(TraceError, match="line 3: ") as told:
        read(path, name)
    assert said in str(told.value)
    assert str(path) in str(told.value)


def test_a_file_that_is_missing_cut_off_or_empty_is_told(tmp_path):
    with pytest.raises(TraceError, match="No such file"):
        read(tmp_path / "none", "mooncake")
    empty = write(tmp_path / "empty.jsonl", [])
    for reading in (lambda: read(empty, "mooncake"), lambda: guess(empty)):
        with pytest.raises(TraceError, match=r"empty\.jsonl: the file is empty"):
            reading()
    empty.write_text(AZURE.splitlines()[0])
    with pytest.raises(TraceError, match="no request in it"):
        read(empty, "azure")
    broken = tmp_path / "w.jsonl.zst"
    broken.write_bytes(b"no zstd")
    with pytest.raises(TraceError, match="zstd"):
        read(broken, "weka")
