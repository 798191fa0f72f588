"""Forms as keys: content counts; boundary, order and file names do not."""

from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecard_client.http.request_bodies.form import form_of, is_file
from tests.api_samples import as_form

SONG = ("song.mp3", b"\x00\r\n--x\r\n\xff", "audio/mpeg")
TYPE = "multipart/form-data; boundary=limit"


def form(fields: dict[str, Any], boundary: str = "limit") -> Any:
    """Read a form as it is written."""
    return form_of(f'multipart/form-data; boundary="{boundary}"', as_form(fields, boundary))


def test_the_content_of_a_form_is_its_key() -> None:
    """Boundary, order of fields and the name of a file do not count; texts, contents, extension and type do."""
    key = form({"model": "m", "file": SONG})
    assert key["model"] == "m"
    assert is_file(key["file"])
    assert form({"file": SONG, "model": "m"}, "other-limit") == key
    assert form({"model": "m", "file": ("another song.MP3", *SONG[1:])}) == key
    for fields in (
        {"model": "m2", "file": SONG},
        {"model": "m", "file": ("song.wav", *SONG[1:])},
        {"model": "m", "file": ("song", *SONG[1:])},
        {"model": "m", "file": ("song.mp3", SONG[1] + b"\r\n", SONG[2])},
        {"model": "m", "file": ("song.mp3", SONG[1], "audio/wav")},
        {"model": "m", "file": SONG, "language": "en"},
        {"model": "m", "image": SONG},
        {"model": "m", "file": "song.mp3"},
    ):
        assert form(fields) != key


def test_a_name_with_a_backslash_is_not_read() -> None:
    """To some programs it escapes what follows, to others it is a character."""
    for name in ("a\\", 'a\\" ; filename="b'):
        assert form({name: "text"}) is None

    assert form({"file": ("C:\\songs\\a.mp3", b"x", "audio/mpeg")}) is None


def test_fields_of_one_name_keep_their_order() -> None:
    """A list is one value of several fields."""

    def several(*texts: str) -> Any:
        parts = [f'--limit\r\nContent-Disposition: form-data; name="a[]"\r\n\r\n{text}\r\n' for text in texts]
        return form_of(TYPE, "".join([*parts, "--limit--"]).encode())

    assert several("x", "y") == {"a[]": ["x", "y"]}
    assert several("x", "y") != several("y", "x")
    assert several("x") == {"a[]": "x"}


def test_what_stands_around_a_form_has_no_meaning() -> None:
    """Line ends before it, and anything after it; a part may be empty."""
    written = as_form({"a": "", "file": ("x.bin", b"", "")})
    read = form_of(TYPE, written)
    assert read is not None
    assert read["a"] == ""
    assert form_of(TYPE, b"\r\n" + written) == form_of(TYPE, written + b"after") == read


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", as_form({"a": "b"})),
        ("multipart/form-data; boundary=", as_form({"a": "b"})),
        (TYPE, b""),
        (TYPE, b"--limit"),
        (TYPE, as_form({"a": "b"})[:-6]),
        (TYPE, as_form({"a": "b"}, "other")),
        (TYPE, b'--limit\r\nContent-Disposition: form-data; name="a"\r\n\r\nb'),
        (TYPE, b"--limit\r\nContent-Disposition: form-data\r\n\r\nb\r\n--limit--"),
        (TYPE, b"--limit\r\n\r\nb\r\n--limit--"),
        (TYPE, b"--limit\r\nno colon\r\n\r\nb\r\n--limit--"),
        (TYPE, b"before\r\n" + as_form({"a": "b"})),
        (
            TYPE,
            b'--limit\r\nContent-Disposition: form-data; name="a"\r\ncontent-disposition: x; name="b"\r\n\r\nb\r\n--limit--',
        ),
        (TYPE, b'--limit\r\nContent-Disposition: form-data; name="a"; Name="b"\r\n\r\nb\r\n--limit--'),
        (TYPE, as_form({"file": (";" * 5000, b"x", "audio/mpeg")})),
        (TYPE + ";" * 5000, as_form({"a": "b"})),
        ("multipart/form-data; boundary=other; boundary=limit", as_form({"a": "b"})),
        (
            TYPE,
            b'--limit\r\nContent-Disposition: form-data; name="a"\r\nContent-Type: text/plain; charset=utf-16\r\n\r\nbb\r\n--limit--',
        ),
        (TYPE, b'--limitless\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n--limit--'),
        (TYPE, b'--limit\r\nContent-Disposition: form-data; name="a"\r\n\r\n\xff\r\n--limit--'),
        (
            TYPE,
            b'--limit\r\nContent-Disposition: form-data; name="a"\r\nContent-Transfer-Encoding: base64\r\n\r\nYQ==\r\n--limit--',
        ),
    ],
)
def test_a_form_that_cannot_be_read_is_none(content_type: str, body: bytes) -> None:
    """It passes through, rather than being shared under a wrong key."""
    assert form_of(content_type, body) is None


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.text(min_size=1, max_size=5), st.binary(max_size=40), st.none() | st.text(max_size=8)), max_size=4
    )
)
def test_forms_of_the_libraries_are_read(parts: list[tuple[str, bytes, str | None]]) -> None:
    """Whatever names and contents the library writes, a form is readable, and its files are found.

    Only a backslash in a name is not: programs read it differently.
    """
    files: Any = [(name, (f"{file}.bin", content)) for name, content, file in parts]
    request = httpx2.Request("POST", "http://x/", files=files or [("f", ("f.bin", b""))])
    read = form_of(request.headers["content-type"], request.read())
    if any("\\" in name or "\\" in (file or "") for name, _, file in parts):
        assert read is None
    else:
        assert read is not None
        assert all(
            is_file(one) for values in read.values() for one in (values if isinstance(values, list) else [values])
        )
