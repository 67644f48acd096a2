"""Arrays over memory that somebody else owns, in code that is compiled without Numba's reference counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array
from numba.np.numpy_support import from_dtype


def array_of(dtype: npt.DTypeLike) -> Callable[..., Any]:
    """Return an intrinsic ``array(address, shape)``: a C-contiguous array there; ``numba.carray`` needs counts."""
    item = from_dtype(dtype)

    @intrinsic  # type: ignore[untyped-decorator]
    def array(typing_context: Any, address: Any, shape: Any) -> Any:
        result = types.Array(item, len(shape), "C")

        def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            made = make_array(result)(context, builder)
            sizes = cgutils.unpack_tuple(builder, args[1])
            item_type = context.get_data_type(item)
            bytes_of_item = ir.Constant(ir.IntType(64), context.get_abi_sizeof(item_type))
            strides: list[Any] = []
            stride = bytes_of_item
            for size in reversed(sizes):
                strides.insert(0, stride)
                stride = builder.mul(stride, size)
            data = builder.inttoptr(args[0], item_type.as_pointer())
            populate_array(made, data=data, shape=sizes, strides=strides, itemsize=bytes_of_item, meminfo=None)
            return made._getvalue()

        return result(types.int64, shape), build

    return array
