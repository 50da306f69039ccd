"""Finding a request's model, and changing it and nothing else."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nebula_core.gateway.data_path.body import model_name, model_span, with_model
from nebula_core.gateway.data_path.errors import Refused

JSON = b"application/json"
SPACE = st.sampled_from(["", "", "", " ", "\n", "\t\r\n  "])
KEYS = st.sampled_from(['"model"', '"model"', '"mod\\u0065l"', '"models"', '"\\"model\\": \\"x"', '"a"', '"модель"', '"{"', '"]"'])


@st.composite
def values(draw, depth=3):
    """A JSON value as text, with white space wherever it may stand."""
    kind = draw(st.sampled_from(["scalar", "scalar", "string", "array", "object"][: 5 if depth else 3]))
    if kind == "scalar":
        return draw(st.sampled_from(["null", "true", "0", "-1.5e+10", "123456789012345678901234567890"]))
    if kind == "string":
        return draw(strings())
    inner = values(depth - 1)
    if kind == "array":
        return "[" + ",".join(draw(st.lists(st.builds("{}{}{}".format, SPACE, inner, SPACE), max_size=3))) + "]"
    return draw(objects(inner))


@st.composite
def strings(draw):
    text = draw(st.text(st.sampled_from('ab"\\/{}[]:, модель\n\t\u2028😀'), max_size=12))
    return json.dumps(text, ensure_ascii=draw(st.booleans()))


@st.composite
def objects(draw, inner, extra=()):
    members = draw(st.lists(st.tuples(KEYS, inner), max_size=3)) + list(extra)
    members = draw(st.permutations(members))
    text = ",".join(f"{draw(SPACE)}{key}{draw(SPACE)}:{draw(SPACE)}{value}{draw(SPACE)}" for key, value in members)
    return "{" + text + "}"


@st.composite
def requests(draw):
    """A JSON object whose last `model` is a string."""
    body = draw(objects(values(), [('"model"', draw(strings()))]))
    pairs = json.loads(body, object_pairs_hook=list)
    models = [value for key, value in pairs if key == "model"]
    if not isinstance(models[-1], str) or "model" in str(models[:-1]) or any(not isinstance(m, str) for m in models):
        body = body[:-1] + ("," if pairs else "") + '"model":"last"}'
        pairs = json.loads(body, object_pairs_hook=list)
    return draw(SPACE) + body + draw(SPACE)


def all_strings(body):
    return all(isinstance(value, str) for key, value in json.loads(body, object_pairs_hook=list) if key == "model")


@given(requests().filter(all_strings), st.text(max_size=10))
@example('{"model":"a","messages":[{"model":"b","content":"\\"model\\": \\"c\\""}]}', "d")
@example('{"m":{"model":"b"},"mod\\u0065l":"a"}', "d")
@example('{"model":"a","model":"b"}', "d")
def test_only_the_top_level_model_changes_and_every_other_byte_stays(text, name):
    body = text.encode()
    start, end = model_span(body)
    changed = with_model(JSON, body, name)
    assert model_name(JSON, body) == json.loads(body[start:end]) == json.loads(body)["model"]
    assert changed.startswith(body[:start])
    assert changed.endswith(body[end:])
    assert json.loads(changed) == json.loads(body) | {"model": name}


def test_a_large_body_is_searched_in_linear_time():
    body = (
        b'{"a":' + b"[" * 900 + b'"' + b'\\"{' * 300_000 + b'"' + b"]" * 900 + b',"b":[' + b'{"model":"x"},' * 50_000 + b'1],"model":"m"}'
    )
    assert json.loads(with_model(JSON, body, "n"))["model"] == "n"


FORM = b"multipart/form-data; boundary=XX"


def form(*parts):
    return b"".join(b"--XX\r\n%b\r\n\r\n%b\r\n" % part for part in parts) + b"--XX--\r\n"


MODEL = b'Content-Disposition: form-data; name="model"'
FILE = b'Content-Disposition: form-data; name="file"; filename="model"\r\nContent-Type: audio/wav'


@given(st.binary(max_size=200).filter(lambda data: b"--XX" not in data), st.booleans(), st.text(st.characters(codec="utf-8"), max_size=8))
def test_only_the_forms_model_changes_and_files_stay_as_they_are(data, file_first, name):
    parts = [(FILE, data), (MODEL, b"m")] if file_first else [(MODEL, b"m"), (FILE, data)]
    renamed = [(head, name.encode() if head == MODEL else value) for head, value in parts]
    assert model_name(FORM, form(*parts)) == "m"
    assert with_model(FORM, form(*parts), name) == form(*renamed)


@pytest.mark.parametrize(
    "head", [b"content-disposition: form-data; NAME=model", b'x-other: 1\r\ncontent-disposition: form-data;name="model"']
)
def test_the_heads_of_a_form_may_be_written_in_other_ways(head):
    assert model_name(b'Multipart/Form-Data; charset=x; boundary="XX"', form((head, b"m")).replace(b"NAME", b"name")) == "m"


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (b"multipart/form-data", form((MODEL, b"m"))),
        (FORM, b""),
        (FORM, b"no form at all"),
        (FORM, form((MODEL, b"m"))[:-6]),
        (FORM, form((FILE, b"m"))),
        (FORM, form((MODEL, b"\xff"))),
        (FORM, form((MODEL, b"a" * 5000))),
    ],
)
def test_a_form_without_a_usable_model_is_refused(content_type, body):
    with pytest.raises(Refused) as refused:
        model_name(content_type, body)
    assert refused.value.answer.status == 400
