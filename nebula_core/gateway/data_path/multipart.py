"""The `model` field of a multipart upload, found without copying the files around it.

The parser reports where each part's data stands, so that the field is read, and replaced, in place.
"""

from __future__ import annotations

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from nebula_core.gateway.data_path.errors import Refused, invalid, missing_model

LONGEST_NAME = 4096


def is_form(content_type: bytes) -> bool:
    """Whether a body of this type is a form with fields and files."""
    return content_type[:19].lower() == b"multipart/form-data"


def model_name(content_type: bytes, body: bytes) -> str:
    """The value of the form's `model` field. Raises `Refused` with what is wrong with the form."""
    start, end = _model_span(content_type, body)
    try:
        return body[start:end].decode()
    except UnicodeDecodeError as error:
        raise Refused(invalid('The form\'s "model" is not valid UTF-8.', param="model")) from error


def with_model(content_type: bytes, body: bytes, name: str) -> bytes:
    """`body`, in which `model_name` has found a model, asking for `name` instead."""
    start, end = _model_span(content_type, body)
    return b"".join((body[:start], name.encode(), body[end:]))


class _Spans:
    """Notes where the data of the part named `model` stands; of several, the last, which counts."""

    def __init__(self) -> None:
        self.found: tuple[int, int] | None = None
        self.complete = False
        self._field = self._value = b""
        self._here = False

    def on_part_begin(self) -> None:
        self._here = False

    def on_header_begin(self) -> None:
        self._field = self._value = b""

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._here = parse_options_header(self._value)[1].get(b"name") == b"model"

    def on_headers_finished(self) -> None:
        if self._here:
            self.found = None

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._here:
            self.found = (self.found[0] if self.found else start, end)

    def on_end(self) -> None:
        self.complete = True


_CALLBACKS = tuple(name for name in vars(_Spans) if name.startswith("on_"))


def _model_span(content_type: bytes, body: bytes) -> tuple[int, int]:
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise Refused(invalid("The content-type of a form needs a boundary: multipart/form-data; boundary=..."))
    spans = _Spans()
    parser = MultipartParser(boundary, {name: getattr(spans, name) for name in _CALLBACKS})  # type: ignore[arg-type]
    try:
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise Refused(invalid(f"The request's body is not a valid form: {error}")) from error
    if not spans.complete:
        raise Refused(invalid("The request's body is not a valid form: its last boundary is missing."))
    if spans.found is None or spans.found[1] - spans.found[0] > LONGEST_NAME:
        raise Refused(missing_model())
    return spans.found
