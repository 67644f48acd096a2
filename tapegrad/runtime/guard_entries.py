"""Entry point of guards: whether Python objects are still where they were found, in one call for all of them."""

from numba import types

from tapegrad.native.cache import jit
from tapegrad.native.fastcall import as_int64, clear_error, from_int64
from tapegrad.native.pointers import int64_at, symbol
from tapegrad.runtime.layout import slot_of, state_of
from tapegrad.runtime.memory import slot_of_handle
from tapegrad.runtime.threads import enter_thread, modes_of

# how a value is found, given the container and the key
IN_DICT, IN_ATTRIBUTE, IN_OTHER = range(3)
# words at the address that objects_hold gets; each address leads to rows
ITEM_COUNT, ITEMS, LENGTH_COUNT, LENGTHS, FLAG_COUNT, FLAGS, GUARD_WORDS = range(7)
ITEM_WORDS = 4  # how, container, key, value

_dict_item = symbol("PyDict_GetItemWithError", types.int64, types.int64, types.int64)  # a borrowed reference
_attribute = symbol("PyObject_GetAttr", types.int64, types.int64, types.int64)
_item = symbol("PyObject_GetItem", types.int64, types.int64, types.int64)
_length = symbol("PyObject_Size", types.int64, types.int64)
_let_go = symbol("Py_DecRef", types.void, types.int64)


@jit
def _found(how, container, key):
    """Return the address of a value, 0 where there is none; the container keeps it alive."""
    if how == IN_DICT:
        return _dict_item(container, key)
    value = _attribute(container, key) if how == IN_ATTRIBUTE else _item(container, key)
    if value != 0:
        _let_go(value)  # only its address is compared
    return value


def objects_hold(self, args, count):
    """objects_hold(words) -> this thread's modes and the default dtype, or -1 where a value, length or flag differs"""
    st = as_int64(self)
    enter_thread(st)
    words = int64_at(as_int64(int64_at(args)[0]))
    lengths, flags, items = int64_at(words[LENGTHS]), int64_at(words[FLAGS]), int64_at(words[ITEMS])
    for k in range(words[LENGTH_COUNT]):
        if _length(lengths[2 * k]) != lengths[2 * k + 1]:
            clear_error()
            return from_int64(-1)
    for k in range(words[FLAG_COUNT]):
        if slot_of(st, slot_of_handle(st, flags[2 * k])).flags != flags[2 * k + 1]:
            return from_int64(-1)
    for k in range(words[ITEM_COUNT]):
        at = ITEM_WORDS * k
        if _found(items[at], items[at + 1], items[at + 2]) != items[at + 3]:
            clear_error()
            return from_int64(-1)
    return from_int64(modes_of(state_of(st)) | state_of(st).default_dtype << 8)


GUARD_ENTRY_POINTS = {"objects_hold": objects_hold}
