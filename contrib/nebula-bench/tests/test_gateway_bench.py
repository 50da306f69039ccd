"""The gateway benchmark counts what it says, and holds its tongue about nothing that makes a row worthless."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time

import msgspec
import pytest
from nebula_bench.gateway import compare, decisions, latency, limits, processes, programs, prompts
from nebula_bench.gateway.errors import MissingError
from nebula_bench.gateway.latency import Latency
from nebula_bench.gateway.rows import Ratio, Row, medians, ratio_table, ratios
from nebula_bench.gateway.scene import Scene

STAT = "77 (a) b (c) S 42 77 77 0 -1 4194560 1 2 3 4 150 50 20 30 20 0 1 0 9"


def row(gateway: str, number: int, cpu_us: float, **fields: object) -> Row:
    given = {"scenario": "json", "requests": 1000, "seconds": 2.0, "p50_ms": 1.0, "p99_ms": 2.0, "pss_mib": 50.0, **fields}
    return msgspec.convert({"gateway": gateway, "round": number, "cpu_us": cpu_us, **given}, Row)


def test_a_ratio_is_the_median_of_those_within_a_round():
    rows = [row("nebula", 1, 40), row("peer", 1, 20), row("nebula", 2, 90), row("peer", 2, 30), row("nebula", 3, 10), row("peer", 3, 10)]
    assert ratios(rows, "nebula") == [Ratio(scenario="json", gateway="nebula", peer="peer", ratio=2.0, rounds=3)]


@pytest.mark.parametrize("flaw", [{"refused": 1}, {"socket_errors": 1}, {"complaint": "the fallback decided"}])
def test_a_doubtful_row_is_marked_and_in_no_ratio(flaw):
    rows = [row("nebula", 1, 40), row("peer", 1, 20, **flaw), row("nebula", 2, 90), row("peer", 2, 30)]
    assert [one.ratio for one in ratios(rows, "nebula")] == [3.0]
    assert "DOUBTFUL" in rows[1].line()
    assert rows[1].flaw in medians(rows)


def test_a_round_that_one_gateway_has_missed_is_in_no_ratio():
    assert ratios([row("nebula", 1, 40), row("peer", 2, 20)], "nebula") == []


def test_the_tables_have_a_cell_for_all():
    rows = [row("nebula", 1, 40), row("peer", 1, 20)]
    assert ratio_table(ratios(rows, "nebula")).splitlines() == ["| CPU per request | / peer |", "|---|--:|", "| json | 2.00 |"]
    assert "| json | nebula | 40.0 | 500 | 1.00 | 2.00 | 50 |  |" in medians(rows)


def test_what_is_added_is_compared_within_a_round():
    def asked(gateway: str, added: float) -> Latency:
        more = {"added_p50_us": added, "added_p99_us": added * 2, "p50_us": 0, "p99_us": 0}
        return msgspec.convert({"kind": "json", "gateway": gateway, "round": 1, "samples": 9, **more}, Latency, strict=False)

    found = latency.ratios([asked("direct", 0), asked("nebula", 60), asked("haproxy", 30)])
    assert found == {"json p50": {"haproxy": 2.0}, "json p99": {"haproxy": 2.0}}


def test_proc_is_read_whatever_a_program_is_called():
    assert processes.parent_of(STAT) == 42
    assert processes.cpu_of(STAT) == pytest.approx(2.5)
    assert processes.pss_of("Rss:  90 kB\nPss:  12 kB\nPss_Dirty:  4 kB\n") == 12 * 1024
    sockstat = "sockets: used 9\nTCP: inuse 4 orphan 0 tw 1 alloc 5 mem 3\nUDP: inuse 0 mem 7\n"
    assert processes.tcp_memory_of(sockstat) == 3 * 4096


def test_established_connections_are_told_from_others():
    line = " 0: 0100007F:{} 0100007F:D431 {} 00000000:00000000 00:00000000 00000000  0  0 {} 1"
    rows = [line.format(port, state, inode) for port, state, inode in (("1F90", "01", 11), ("1F90", "0A", 12), ("1F91", "01", 13))]
    assert processes.established("\n".join(["head", *rows]), 8080) == [("11", 0xD431)]


def test_the_cpu_time_and_memory_of_a_child_count():
    busy = "import time, sys\nwhile time.process_time() < 0.4: pass\nprint(flush=True)\nsys.stdin.read()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        pids = processes.tree(process.pid)
        assert len(pids) == 2
        assert processes.cpu_s(pids) >= 0.3 > processes.cpu_s(pids[:1])
        assert processes.pss_bytes(pids) > processes.pss_bytes(pids[:1]) > 2**20
        process.communicate()


def test_what_was_started_is_ended_with_its_children(tmp_path):
    sleep = "import time; time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {sleep!r}]); print('up', flush=True); {sleep}"
    with programs.running([sys.executable, "-c", parent], tmp_path / "log", end_s=0.2) as process:
        deadline = time.monotonic() + 30
        while len(pids := processes.tree(process.pid)) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(pids) == 2
    assert not any(map(processes.runs, pids))


def test_a_fallback_that_decided_is_told():
    before = decisions.counts('nebula_route_total{model_uid="m",status="picked"} 10\n')
    good = 'nebula_route_total{model_uid="m",status="picked"} 30\nnebula_strategy_prefix_decision_total{reason="prefix_hit"} 30\n'
    fallback = 'nebula_route_total{model_uid="m",status="fallback"} 20\n'
    assert decisions.complaint({}, decisions.counts(good)) == ""
    assert "fallback 20" in decisions.complaint({}, decisions.counts(good + fallback))
    assert "decided 0 of 10" in decisions.complaint({}, before)
    assert decisions.complaint({}, {}) != ""


def test_prompts_share_prefixes_and_all_differ():
    small, large = prompts.bodies(), prompts.bodies(words=prompts.WORDS_32_KIB)
    assert len(set(small)) == len(small) == 1024
    assert len({body.partition(b'"user"')[0] for body in small}) == prompts.SYSTEM_PROMPTS
    assert all(32_000 < len(body) < 34_000 for body in large)
    assert not any(b"\n" in body for body in large)


def test_a_limit_that_is_too_low_is_told_with_the_way_out():
    with pytest.raises(MissingError, match=r"open files in it, and the hard limit here is \d+\. Raise it"):
        limits.take_files(10**9)


def test_a_program_that_is_not_here_is_named_with_what_brings_it():
    with pytest.raises(MissingError, match="apt install no-such-program"):
        programs.find("no-such-program")


@pytest.mark.skipif(not (shutil.which("cc") or shutil.which("gcc")), reason="there is no C compiler for the mock engine")
@pytest.mark.skipif(not shutil.which("wrk"), reason="there is no wrk")
def test_nebula_is_measured_and_its_strategy_decides(tmp_path, capsys):
    scene = Scene(cache=tmp_path / "cache", folder=tmp_path, rounds=1, seconds=1, json=tmp_path / "found.json")
    (found,) = compare.run(scene, ("json",))
    assert found.flaw == ""
    assert found.requests > 0
    assert found.cpu_us > 0
    assert found.worker_mib
    assert msgspec.json.decode((tmp_path / "found.json").read_bytes())["rows"][0]["gateway"] == "nebula"
    assert "| json | nebula |" in capsys.readouterr().out
