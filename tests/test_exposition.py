"""Metrics pages are read as Prometheus' own client library reads them, and what is none is refused with a reason."""

import math
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from nebula_core import MetricSample, MetricsPage, MetricsReader, ScrapeError
from nebula_core.exposition import MAX_SAMPLES, as_count, as_ratio

NAMES = ("up", "up_total", "vllm:up", "queue:depth")


def read(page: bytes | str, *names: str) -> MetricsPage:
    return MetricsReader(names or NAMES, "the test").read(page.encode() if isinstance(page, str) else page, "/metrics")


def only(page: bytes | str) -> MetricSample:
    (sample,) = read(page).samples("up")
    return sample


def test_only_the_wanted_metrics_are_read():
    page = read("# TYPE up gauge\nup 1\nup_bucket 2\nup_total 3\nuptime 4\nother 5\n", "up", "up_total", "absent")
    assert page.families == {"up": [({}, 1)], "up_total": [({}, 3)]}


@pytest.mark.parametrize(
    ("line", "labels"),
    [
        ('up{a="1",b="2"} 7', {"a": "1", "b": "2"}),
        ('up{a="1",} 7', {"a": "1"}),
        ("up{} 7", {}),
        ('  up  { a = "1" , b="2" }  7  ', {"a": "1", "b": "2"}),
        ('up{a="1"}7', {"a": "1"}),
        ("up\t7", {}),
        (
            r'up{a="say \"hi\"",b="back\\slash",c="two\nlines",d="\t"} 7',
            {"a": 'say "hi"', "b": "back\\slash", "c": "two\nlines", "d": r"\t"},
        ),
        ('up{a="x{y=\\"1\\"},z # {} 3"} 7', {"a": 'x{y="1"},z # {} 3'}),
        ('up{a="Mädchen 模型"} 7', {"a": "Mädchen 模型"}),
        ('up{a="1"} 7 1795421247165', {"a": "1"}),
        ('up{a="1"} 7 # {trace_id="a b, c"} 0.5 1.7', {"a": "1"}),
        ('up{a="1"} 7 1795421247.165 # {trace_id="}"} 0.5', {"a": "1"}),
        ("up 7 # {} 1", {}),
        ("up 7.0e0", {}),
    ],
)
@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n# EOF\n", "\n# EOF"])
def test_a_line_is_read_however_it_is_written(line, labels, end):
    assert only(line + end) == (labels, 7)


def test_help_lines_may_say_anything():
    assert only('# HELP up up 3\n# up 4\n#up 5\n# HELP other {"\\\nup 7\n# TYPE up gauge\n') == ({}, 7)


@pytest.mark.parametrize(("text", "value"), [("+Inf", math.inf), ("-Inf", -math.inf), ("-1", -1), (".5", 0.5), ("1E3", 1000), ("-0", 0)])
def test_numbers_stand_as_they_are_on_the_page(text, value):
    assert only(f"up {text}\n").value == value


def test_nan_is_a_number_too():
    assert math.isnan(only("up NaN\n").value)


def test_a_label_of_broken_unicode_does_not_hide_its_value():
    assert only(b'up{a="\xff"} 7\n') == ({"a": "\ufffd"}, 7)


@pytest.mark.parametrize(
    "line",
    [
        "up",
        "up ",
        "up one",
        "up 1_0",
        "up 0x10",
        "up 1 2 3",
        "up 1 later",
        "up+1",
        "up{ 1",
        "up} 1",
        "up{a} 1",
        "up{a=1} 1",
        'up{a="1} 1',
        'up{a="1"',
        'up{a="1"}',
        'up{a="1" b="2"} 1',
        "up{,} 1",
        'up{a="1",,} 1',
        'up{"a"="1"} 1',
        'up{a="1"}{b="2"} 1',
        "up 1#",
    ],
)
def test_a_wanted_line_that_cannot_be_read_is_an_error_that_shows_it(line):
    with pytest.raises(ScrapeError, match=r"/metrics has the line .*up"):
        read(f"queue:depth 1\n{line}\nqueue:depth 2\n")


@pytest.mark.parametrize(
    "page", [b"", b"\n", b"<!doctype html><p>up 1", b'{"up": 1}', b"\xff\xfe\x00", b"a b c d\n", b"# HELP up x\n", b"\x1f\x8b\x08"]
)
def test_a_page_without_any_of_the_metrics_is_an_error_that_shows_its_beginning(page):
    with pytest.raises(ScrapeError, match=r"/metrics is not a metrics page of the test.*it begins"):
        read(page)


@pytest.mark.parametrize("end", ["other", 'other{a="', 'other{a="1"', "other{a=1} 2", "other{} ", "ot her 1 2 3", "}"])
def test_a_page_that_ends_in_the_middle_of_a_line_is_an_error(end):
    with pytest.raises(ScrapeError, match="/metrics ends in the middle of a line"):
        read(f"up 1\n{end}")


def test_a_page_with_endless_samples_is_an_error():
    with pytest.raises(ScrapeError, match=f"more than {MAX_SAMPLES}"):
        read(b"up 1\n" * (MAX_SAMPLES + 1))


def test_samples_are_added_averaged_and_compared():
    page = read('up{e="0"} 1\nup{e="1"} 4\n')
    assert (page.sum("up"), page.mean("up"), page.max("up")) == (5, 2.5, 4)


def test_samples_are_chosen_by_their_labels():
    page = read('up{e="0",k="a"} 1\nup{e="1",k="a"} 4\nup{k="b"} 9\n')
    assert [page.sum("up", {"k": "a"}), page.sum("up", {"e": "1", "k": "a"}), page.sum("up", {"e": ""})] == [5, 4, 9]


def test_what_is_not_there_is_unknown():
    page = read('up{e="0"} 1\n')
    assert [page.sum("vllm:up"), page.mean("vllm:up"), page.max("vllm:up"), page.sum("up", {"e": "2"})] == [None] * 4


@pytest.mark.parametrize("lie", ["-1", "NaN", "+Inf", "-Inf"])
def test_one_impossible_value_makes_the_whole_unknown(lie):
    page = read(f'up{{e="0"}} 1\nup{{e="1"}} {lie}\n')
    assert [page.sum("up"), page.mean("up"), page.max("up"), page.sum("up", {"e": "0"})] == [None, None, None, 1]


def test_a_sum_beyond_all_numbers_is_unknown():
    page = read("up 1e308\nup 1.7e308\n")
    assert [page.sum("up"), page.mean("up")] == [None, None]


def test_a_share_is_at_most_all():
    assert [as_ratio(value) for value in (None, 0.0, 0.5, 1.7)] == [None, 0, 0.5, 1]


def test_a_number_of_things_is_whole_and_not_nothing():
    assert [as_count(value) for value in (None, 0.0, 4096.0, 4096.9, 1e300)] == [None, None, 4096, 4096, None]


@st.composite
def sample_lines(draw: st.DrawFn) -> str:
    blank = st.sampled_from(["", " ", "\t", "  "])
    values = st.text(st.characters(blacklist_categories=["Cs", "Cc"], whitelist_characters='\n\\"{},=# '), max_size=12)
    labels = draw(
        st.dictionaries(st.from_regex(r"[a-zA-Z_]{1,3}", fullmatch=True).filter(lambda name: name[:2] != "__"), values, max_size=4)
    )
    terms = [f'{name}{draw(blank)}={draw(blank)}"{_escaped(value)}"{draw(blank)}' for name, value in labels.items()]
    comma = draw(st.sampled_from(["", ","])) if terms else ""
    block = f"{draw(blank)}{{{','.join(terms)}{comma}}}{draw(blank)} " if terms else " "
    value = draw(st.one_of(st.floats().map(repr), st.integers(-(10**20), 10**20).map(str), st.sampled_from(["NaN", "+Inf", "-Inf", "1e5"])))
    time = draw(st.sampled_from(["", " 1795421247165", " -5"]))
    return f"{draw(blank)}{draw(st.sampled_from((*NAMES, 'other', 'up_bucket')))}{block}{value}{time}{draw(blank)}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


comment_lines = st.sampled_from(
    ["", '# HELP up Say {"this"} up 3', "# TYPE up gauge", "# TYPE up_total counter", "# EOF", "#", "# just so"]
)


@given(st.lists(st.one_of(sample_lines(), comment_lines), max_size=12), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_pages_are_read_as_the_official_library_reads_them(lines, feed, finished):
    page = "up 1" + feed + feed.join(lines) + (feed if finished else "")
    expected: dict[str, list[tuple[dict[str, str], str]]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name in NAMES:
                expected.setdefault(sample.name, []).append((sample.labels, repr(float(sample.value))))
    seen = read(page).families
    assert {name: [(sample.labels, repr(sample.value)) for sample in samples] for name, samples in seen.items()} == expected


@given(st.binary(max_size=300), st.integers(0, 100), st.integers(0, 100))
def test_whatever_the_bytes_a_page_is_read_or_refused(noise, start, end):
    good = b'# HELP up x\nup{a="b",c="d\\""} 1.5 123 # {e="f"} 1\r\nqueue:depth 3\nvllm:up{engine="0"} 4e2\n'
    for page in (noise, good[:start] + noise + good[end:]):
        with suppress(ScrapeError):
            for name, samples in read(page).families.items():
                assert name in NAMES
                assert all(isinstance(sample.value, float) for sample in samples)
