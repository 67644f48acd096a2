"""The dtypes of tensors and their codes, in order of promotion."""

import numpy as np

from tapegrad.native.pointers import pointer_to

BOOL, UINT8, INT32, INT64, FLOAT32, FLOAT64 = range(6)
DTYPE_COUNT = 6
DTYPE_NAMES = ("bool", "uint8", "int32", "int64", "float32", "float64")
NUMPY_DTYPES = tuple(np.dtype(name) for name in DTYPE_NAMES)
ITEM_BYTES = tuple(dtype.itemsize for dtype in NUMPY_DTYPES)
POINTERS = tuple(pointer_to(dtype) for dtype in NUMPY_DTYPES)  # each casts an int64 address to a typed pointer
SCALARS = tuple(dtype.type for dtype in NUMPY_DTYPES)
