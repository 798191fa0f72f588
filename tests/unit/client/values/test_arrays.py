"""numpy's arrays and scalars."""

from typing import Any

import numpy as np
import pytest

from sidecard_client.values.arrays import array_form
from sidecard_client.values.forms import Misfit


def came_back(value: Any) -> Any:
    """Take a value apart and put it together."""
    form = array_form(type(value))
    assert form is not None
    return form.from_plain(form.to_plain(value))


@pytest.mark.parametrize(
    "value",
    [
        np.arange(6).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(6)[::2],
        np.broadcast_to(np.array(1.5), (2, 2)),
        np.array(7, ">u8"),
        np.zeros((2, 0, 3), "c16"),
        np.array([(1, 2.0)], np.dtype([("a", "i1"), ("b", "f8")], align=True)),
        np.array([(1, ((2, 3),))], [("a", "i4"), ("b", [("c", "i2", (1, 2))])]),
        np.array(["NaT", "2026-01-02"], "M8[ns]"),
        np.array([b"a", b""]),
    ],
    ids=lambda value: f"{value.dtype} {value.shape}",
)
def test_an_array_comes_back_with_dtype_shape_and_order(value: Any) -> None:
    """As an array of its own, which can be changed."""
    back = came_back(value)

    assert (back.dtype, back.shape, back.tobytes()) == (value.dtype, value.shape, value.tobytes())
    assert back.flags.writeable
    if value.flags.forc:
        assert (back.flags.c_contiguous, back.flags.f_contiguous) == (
            value.flags.c_contiguous,
            value.flags.f_contiguous,
        )


@pytest.mark.parametrize(
    "value", [np.float16(1.5), np.int64(-1), np.bool_(False), np.str_("x"), np.datetime64("2026-01-02", "s")]
)
def test_a_scalar_comes_back_with_its_class(value: Any) -> None:
    """And its unit."""
    back = came_back(value)

    assert (type(back), back, back.dtype) == (type(value), value, value.dtype)


@pytest.mark.parametrize(
    "value",
    [
        np.array([{}], object),
        np.array([(1, None)], [("a", "i4"), ("b", object)]),
        np.array(["a"], np.dtypes.StringDType()),
        np.ma.array([1], mask=[True]),
        np.rec.array([(1,)], dtype=[("a", "i4")]),
    ],
)
def test_what_has_more_than_its_bytes_is_refused(value: Any) -> None:
    """Objects, texts of any length, masks, subclasses."""
    form = array_form(np.ndarray)
    assert form is not None
    with pytest.raises(Misfit, match=r"elements of|not numpy\.ndarray"):
        form.to_plain(value)


def test_other_classes_have_no_form() -> None:
    """Nor do arrays that are not numpy's."""
    assert array_form(list) is None


@pytest.mark.parametrize(
    "plain", [None, [], ["f8", [2], "C", b""], ["O", [1], "C", b"\x01" * 8], ["f8", [1], "C", "text"]]
)
def test_another_plain_form_is_an_error(plain: Any) -> None:
    """Objects are not made of bytes."""
    form = array_form(np.ndarray)
    assert form is not None
    with pytest.raises((TypeError, ValueError)):
        form.from_plain(plain)


@pytest.mark.parametrize(
    "plain",
    [
        ["|V0", [10**15], "C", b""],
        ["|S0", [10**15], "C", b""],
        [[[], 0, 0], [10**15], "C", b""],
        ["<i4", [10**12], "C", b"1234"],
        ["<i4", [2**62, 4], "C", b"1234"],
        ["<i4", [-1], "C", b"1234"],
        ["<i4", [-1, -1], "C", b"1234"],
        ["<i4", [True], "C", b"1234"],
        ["<i4", [1], "C", b"12345678"],
        ["<i4", [1], "C", [1, 2, 3, 4]],
        ["<i4", 1, "C", b"1234"],
        ["(2,2)<i4", [1], "C", bytes(16)],
        ["i4,f4", [1], "C", bytes(8)],
        ["|O", [1], "C", bytes(8)],
        [[["a", "<i4", [10**9], 0]], [1], "C", b"1234"],
        [[[["a", "|O", [], 0]], 8, 0], [1], "C", bytes(8)],
    ],
    ids=str,
)
def test_a_form_that_no_array_has_is_refused(plain: Any) -> None:
    """At once: no length makes memory or time that the bytes do not have."""
    form = array_form(np.ndarray)
    assert form is not None
    with pytest.raises((ValueError, TypeError)):
        form.from_plain(plain)


def test_elements_without_bytes_are_refused() -> None:
    """Both ways."""
    form = array_form(np.ndarray)
    assert form is not None
    with pytest.raises(Misfit):
        form.to_plain(np.zeros(3, "V0"))
