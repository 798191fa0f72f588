"""Forms of numpy's arrays and scalars: ``[dtype, shape, order, bytes]``."""

import math
import re
import sys
from typing import Any, Final

from sidecard_client.values.forms import Form, Misfit, misfit
from sidecard_client.values.likeness import name_of_kind

_KINDS: Final = frozenset("biufcmMSUV")
"""Kinds of dtypes whose bytes are the whole value: no objects, no texts of any length."""

_DTYPE: Final = re.compile(r"[<>|=]?[biufcmMSUV][0-9]{0,9}(\[[0-9A-Za-z]{1,24}\])?")
"""What numpy calls such a dtype. It also reads lists of dtypes, with shapes, from texts."""


def array_form(kind: type) -> Form | None:
    """Return the form of numpy's array class or of one of its scalar classes; None for other classes."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not (kind is numpy.ndarray or issubclass(kind, numpy.generic)):
        return None

    return ArrayForm(numpy, kind)


class ArrayForm(Form):
    """Arrays of any dtype without objects, or scalars of a class."""

    def __init__(self, numpy: Any, kind: type) -> None:
        self._numpy = numpy
        self.kind = kind
        self.shape = name_of_kind(kind)
        self._is_scalar_class = kind is not numpy.ndarray

    def to_plain(self, value: Any) -> Any:
        """Return the dtype, the shape, the order of the elements and their bytes."""
        if type(value) is not self.kind:
            raise misfit(value, self.shape)

        dtype = value.dtype
        described = _described(dtype)
        if not _is_of_bytes(dtype) or _dtype(self._numpy, described) != dtype:
            raise Misfit(
                f"has elements of {dtype}, which are not plain bytes: convert them, for example with .astype() or .tolist()"
            )

        flags = value.flags
        order = "F" if flags.f_contiguous and not flags.c_contiguous else "C"
        return [described, list(value.shape), order, value.tobytes(order=order)]

    def from_plain(self, plain: Any) -> Any:
        """Return a new array, which can be changed, or a scalar."""
        described, shape, order, data = plain
        numpy = self._numpy
        dtype = _dtype(numpy, described)
        if not _is_of_bytes(dtype):
            raise ValueError(f"arrays of {dtype} are not made of bytes")  # which would be taken for addresses

        if any(type(length) is not int or length < 0 for length in shape):
            raise ValueError("a length is no whole number")

        if type(data) is not bytes or math.prod(shape) * dtype.itemsize != len(data):
            raise ValueError("there are more or fewer bytes than the elements have")

        # A copy of an array does not have the bytes between the fields of a structure; one of its buffer does.
        buffer = data if dtype.names is None else bytearray(data)
        view = numpy.ndarray(tuple(shape), dtype, buffer=buffer, order=order)
        value = view[()] if self._is_scalar_class else view if buffer is not data else view.copy(order=order)
        if type(value) is not self.kind:
            raise TypeError(f"a {name_of_kind(type(value))}")

        return value


def _is_of_bytes(dtype: Any) -> bool:
    # Any number of elements without a byte fits into any answer.
    return dtype.kind in _KINDS and not dtype.hasobject and dtype.itemsize > 0


def _described(dtype: Any) -> Any:
    """Return a dtype's text, or the list of a structured one's fields."""
    if dtype.names is None:
        return dtype.str

    fields = []
    for name in dtype.names:
        field, shape = dtype[name], []
        if field.subdtype is not None:
            field, shape = field.subdtype[0], list(field.subdtype[1])

        fields.append([name, _described(field), shape, dtype.fields[name][1]])

    return [fields, dtype.itemsize, dtype.alignment if dtype.isalignedstruct else 0]


def _dtype(numpy: Any, described: Any) -> Any:
    if isinstance(described, str):
        if _DTYPE.fullmatch(described) is None:
            raise ValueError("no dtype of bytes")

        return numpy.dtype(described)

    fields, size, alignment = described
    return numpy.dtype(
        {
            "names": [field[0] for field in fields],
            "formats": [(_dtype(numpy, field[1]), tuple(field[2])) for field in fields],
            "offsets": [field[3] for field in fields],
            "itemsize": size,
        },
        align=bool(alignment),
    )
