"""The model's name inside a multipart form."""

import pytest

from router.api.form import field_of
from router.errors import InvalidRequest

TYPE = 'multipart/form-data; boundary="x"'


def form(*parts: tuple[str, bytes]) -> bytes:
    body = b"".join(
        b"--x\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n" % (head.encode(), value) for head, value in parts
    )
    return body + b"--x--\r\n"


def test_the_field_is_found_among_others() -> None:
    body = form(('name="file"; filename="a.wav"', b"\r\n--y\r\n\0" * 999), ('name="model"', "ünï".encode()))
    assert field_of(body, TYPE, "model") == "ünï"


def test_the_first_one_counts() -> None:
    assert field_of(form(('name="model"', b"a"), ('name="model"', b"b")), TYPE, "model") == "a"


def test_none_when_it_is_not_there() -> None:
    assert field_of(form(('name="file"', b"model")), TYPE, "model") is None


def test_an_empty_one_is_empty() -> None:
    assert field_of(form(('name="model"', b"")), TYPE, "model") == ""


def test_a_huge_value_is_not_collected() -> None:
    found = field_of(form(('name="model"', b"a" * 10_000_000)), TYPE, "model")
    assert found is not None


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"{}", "application/json"),
        (b"{}", ""),
        (b"", "multipart/form-data"),
        (b"nonsense", TYPE),
        (b"--x--", "multipart/form-data; boundary=" + "x" * 300),
    ],
)
def test_what_is_no_form_is_refused(body: bytes, kind: str) -> None:
    with pytest.raises(InvalidRequest):
        field_of(body, kind, "model")
