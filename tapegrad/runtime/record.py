"""The recorder: while a capture is on, every kernel that the capturing thread runs is noted with its frame.

A note is: its length in words, op, kind, kernel, whether it writes into a target, site, the frame (results, counts,
operands, attributes), then the storages of the results and of the operands. Slots and storages that die meanwhile are
put aside instead of being used again, so that each number means one thing throughout the capture, and so that the
program can go on using them.
"""

from tapegrad.native.cache import jit
from tapegrad.native.pointers import int64_at
from tapegrad.runtime.layout import (
    FRAME_ATTRIBUTE_COUNT,
    FRAME_INPUT_COUNT,
    FRAME_INPUTS,
    MAX_OUTPUTS,
    slot_of,
    state_of,
)

NOTE_WORDS = 1 << 25  # of a capture
NOTE_LENGTH, NOTE_OP, NOTE_KIND, NOTE_KERNEL, NOTE_IN_PLACE, NOTE_SITE, NOTE_FRAME = range(7)


@jit
def is_capturing(state):
    return state.capture != 0 and state.thread == state.capture_thread


@jit
def note_run(st, op, kind, kernel, frame, in_place):
    """Note a kernel's run; what does not fit is counted all the same, so that the end of the capture sees it."""
    state = state_of(st)
    words = int64_at(frame)
    inputs = words[FRAME_INPUT_COUNT]
    count = FRAME_INPUTS + inputs + words[FRAME_ATTRIBUTE_COUNT]
    length = NOTE_FRAME + count + MAX_OUTPUTS + inputs
    if state.capture_top + length <= NOTE_WORDS:
        note = int64_at(state.capture + 8 * state.capture_top)
        note[NOTE_LENGTH] = length
        note[NOTE_OP] = op
        note[NOTE_KIND] = kind
        note[NOTE_KERNEL] = kernel
        note[NOTE_IN_PLACE] = in_place
        note[NOTE_SITE] = state.site
        for k in range(count):
            note[NOTE_FRAME + k] = words[k]
        storages = NOTE_FRAME + count
        for k in range(MAX_OUTPUTS):
            note[storages + k] = slot_of(st, words[k]).storage if words[k] >= 0 else -1
        for k in range(inputs):
            slot = words[FRAME_INPUTS + k]
            note[storages + MAX_OUTPUTS + k] = slot_of(st, slot).storage if slot >= 0 else -1
    state.capture_top += length
