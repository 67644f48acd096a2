"""``tg.compile``: run a function as it is, note what it computes, and from then on replay that as one compiled call."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from tapegrad.capture.checking import Trial
from tapegrad.capture.compare import first_difference, form_of
from tapegrad.capture.epochs import Epoch, epoch_of_batches, run_batches
from tapegrad.capture.errors import CaptureError
from tapegrad.capture.guards import Guards
from tapegrad.capture.native import NativeFunction
from tapegrad.capture.notes import collector_off, recording, release
from tapegrad.capture.passes import PASSES, check_names
from tapegrad.capture.program import Program
from tapegrad.capture.progress import Progress
from tapegrad.capture.quick import QuickCall
from tapegrad.capture.storages import check_arguments, classify, slot_of, storage_of
from tapegrad.capture.trees import put_together, take_apart
from tapegrad.capture.variants import Variant
from tapegrad.ops import functions
from tapegrad.runtime.errors import raise_status
from tapegrad.runtime.handle import Tensor, wrap
from tapegrad.runtime.machine import machine
from tapegrad.tensor.construct import from_numpy


class Compiled:
    """A function that is captured when it is called and then replayed; see ``compile``.

    Attributes:
        variants: what was captured, one for each way in which it was called, the last used first.

    Args:
        function: the function.
        limit: how many programs are kept.
        checks: how many replays of each program run beside the function itself and are compared with it.
        without: names of passes to leave out.
    """

    def __init__(
        self, function: Callable[..., Any], limit: int, checks: int = 0, without: Collection[str] = ()
    ) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._limit = limit
        self._without = tuple(without)
        self._checks = checks  # replays of each program that run beside the function itself
        self.variants: list[Variant] = []
        self._native: NativeFunction | None = None
        self._misses = 0  # calls in a row whose guards did not hold and for which there was no program
        self._quick: QuickCall | None = None

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else _Bound(self, instance)

    @property
    def njit(self) -> NativeFunction:
        """The function for ``@njit`` code, C and SciPy; see ``NativeFunction``."""
        if self._native is None:
            self._native = NativeFunction(lambda: self, _name_of(self._function))
        self._native.renew()
        return self._native

    def epoch(
        self,
        *arrays: Any,
        batch_size: int | None = None,
        shuffle: bool = False,
        generator: Any = None,
        drop_last: bool = False,
        callback: Callable[[int, Any], Any] | None = None,
        every: int = 100,
        progress: bool = False,
    ) -> Any:
        """Call the function with batch after batch of some arrays, in compiled code once there is a program for it.

        Args:
            *arrays: tensors or NumPy arrays [rows, ...], of the same number of rows; the function gets as many batches.
                Or one DataLoader, or another iterable of batches: then the next four do not count. A loader of tensors
                in memory runs in compiled code as well.
            batch_size: rows of a batch.
            shuffle: take the rows in the order of ``tg.randperm(rows, generator=generator)``.
            generator: the source of the order; by default the library's own.
            drop_last: leave out the last rows if they do not fill a batch.
            callback: called as ``callback(steps, results)`` every ``every`` steps, ``results`` being what this returns.
            every: see ``callback``.
            progress: show the steps that are done on the standard error stream, from another thread.

        Between two calls of compiled code, some 50 ms each, Ctrl-C and callbacks find everything as after a step. What
        they raise ends the epoch there. Schedules may step in the function. To augment batches, let the function do so:
        ``tg.rand`` and its kin draw other numbers for each.

        Returns:
            What the function returns, each tensor in it with a new first dimension that counts the steps.

        Raises:
            ValueError: no arrays, of different lengths, or a batch size that is not positive.
            RuntimeError: the function returns other shapes for the last, smaller batch.

        Example:
            >>> import tapegrad as tg
            >>> total = tg.compile(lambda x: x.sum())
            >>> total.epoch(tg.arange(10.0), batch_size=2)
            tensor([ 1.,  5.,  9., 13., 17.])
        """
        return self._epoch((), arrays, batch_size, shuffle, generator, drop_last, callback, every, progress)

    def _epoch(self, leading: tuple[Any, ...], arrays: Sequence[Any], *options: Any) -> Any:
        batch_size, shuffle, generator, drop_last, callback, every, progress = options
        after = (every, callback, leading)
        if every < 1:
            raise ValueError(f"epoch: expected every to be positive, got {every}")
        if len(arrays) == 1 and not hasattr(arrays[0], "shape") and batch_size is None:
            batches = iter(arrays[0])
            rows = getattr(batches, "in_order", None)
            epoch = epoch_of_batches(rows, batches, self, *after) if rows is not None else None
            if epoch is None:
                return run_batches(batches, self, *after)
        else:
            epoch = self._epoch_of_arrays(arrays, batch_size, shuffle, generator, drop_last, after)
        with Progress(epoch.done, epoch.steps) if progress else contextlib.nullcontext():
            return epoch.run()

    def _epoch_of_arrays(
        self,
        arrays: Sequence[Any],
        batch_size: int | None,
        shuffle: bool,
        generator: Any,
        drop_last: bool,
        after: tuple[Any, ...],
    ) -> Epoch:
        tensors = [from_numpy(array) if isinstance(array, np.ndarray) else array for array in arrays]
        lengths = [len(tensor) for tensor in tensors]
        if not tensors or len(set(lengths)) > 1 or batch_size is None or batch_size < 1:
            raise ValueError(f"epoch: expected arrays of one length, got lengths {lengths}, batch_size={batch_size}")
        order = functions["randperm"](lengths[0], generator=generator) if shuffle else None
        return Epoch(self, tensors, batch_size, order, drop_last, *after)

    def ready(self, args: tuple[Any, ...]) -> Variant | None:
        """Return the variant that would be replayed for a call with these arguments, or None.

        Args:
            *args: the arguments.
        """
        tensors: list[Tensor] = []
        structure = take_apart(args, tensors, once=True)
        modes, shapes = _modes(), _shapes(tensors)
        for variant in self.variants:
            fits = variant.program is not None and variant.modes == modes and variant.tensors == shapes
            if fits and _same(variant.structure, structure) and variant.guards.hold():
                return None if variant.checks_left else variant
        return None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compute what the function computes, by a replay where there is a program for such a call."""
        if machine.capturing:
            return self._function(*args, **kwargs)
        quick = self._quick
        if quick is not None and not kwargs:
            found = quick.run(args)
            if found is not None:
                return quick.result(self, args, found)
        tensors: list[Tensor] = []
        structure = take_apart((args, tuple(kwargs.items())) if kwargs else args, tensors, once=True)
        modes = _modes()
        for variant in self.variants:
            if variant.modes == modes and _same(variant.structure, structure) and variant.guards.hold():
                if variant.program is None:
                    if _shapes(tensors) == variant.tensors and variant.shares(tensors) == variant.shared:
                        return self._record(variant, args, kwargs, tensors)
                    continue
                if variant.checks_left:
                    return self._checked(variant, args, kwargs, tensors)
                variant.refresh()
                found = variant.program.run(*[tensor._handle for tensor in tensors])
                if type(found) is tuple:
                    variant.program.expect_no_allocation()
                    outputs = [wrap(handle) for handle in found]
                    if variant is not self.variants[0]:
                        self._put_first(variant)
                    for call in variant.program.notes.deferred:
                        call()
                    self._quick = QuickCall(variant) if QuickCall.fits(variant) else None
                    return self._assemble(variant, tensors, outputs)
                if not variant.refused(found):
                    raise_status(found)
        self._count_miss(structure)
        return self._record(self._new_variant(structure, modes, tensors), args, kwargs, tensors)

    def _put_first(self, variant: Variant) -> None:
        """Have the variants in the order of their last use: the next call is likely as the last one."""
        self.variants[:] = [variant, *(other for other in self.variants if other is not variant)]

    def _count_miss(self, structure: Any) -> None:
        """Raise CaptureError where what the function reads has changed before each of many calls."""
        same = [variant for variant in self.variants if _same(variant.structure, structure)]
        self._misses = self._misses + 1 if same and not same[0].guards.hold() else 0
        if self._misses > self._limit + _PATIENCE:
            raise CaptureError(
                f"{self._function.__qualname__} reads what changes in each call, so it cannot be replayed: "
                f"{same[0].guards.change()}. Pass it as a tensor, or leave it out of the captured function"
            )

    def _new_variant(self, structure: Any, modes: int, tensors: Sequence[Tensor]) -> Variant:
        del self.variants[self._limit - 1 :]
        variant = Variant(structure, Guards(self._function, _plain_values(structure)), _shapes(tensors), modes)
        variant.checks_left = self._checks
        variant.shared = variant.shares(tensors)
        self.variants.insert(0, variant)
        return variant

    def _record(self, variant: Variant, args: Any, kwargs: Any, tensors: list[Tensor]) -> Any:
        """Run the function as it is; make a program of what it computes if the last call computed the same."""
        check_arguments(tensors)
        variant.guards = Guards(self._function, _plain_values(variant.structure))
        if machine.capturing:  # another thread has begun to meanwhile
            return self._function(*args, **kwargs)
        with recording() as notes:
            structure, returned, outputs = _detached(self._function(*args, **kwargs), tensors)
        try:
            with collector_off():
                return self._finish(variant, notes, tensors, structure, returned, outputs)
        finally:
            _release_unless_used(variant, notes)

    def _finish(
        self,
        variant: Variant,
        notes: Any,
        tensors: list[Tensor],
        structure: Any,
        returned: tuple[tuple[str, int], ...],
        outputs: list[Tensor],
    ) -> Any:
        variant.guards.check_hidden()
        storages = classify(notes, tensors)
        places = [(slot_of(tensor), storage_of(tensor)) for tensor in outputs]
        form = form_of(notes, storages, places, (returned, structure))
        copies = [tensor.clone() for tensor in outputs]
        variant.result, variant.returned = structure, returned
        if variant.form == form:
            variant.program = Program(notes, tensors, outputs, variant.guards.tensors, self._without, storages)
            self._misses = 0
        elif variant.form is not None:
            variant.failures += 1
            if variant.failures > _PATIENCE:
                difference = first_difference(variant.form, form, notes)
                raise CaptureError(
                    f"{self._function.__qualname__} does not compute the same in each call, so it cannot be replayed: "
                    f"{difference}. Pass what changes as a tensor, or leave it out of the captured function"
                )
        variant.form = form
        return self._assemble(variant, tensors, copies)

    def _checked(self, variant: Variant, args: Any, kwargs: Any, tensors: list[Tensor]) -> Any:
        """Replay and run the function, from the same state; raise CaptureError where they differ."""
        assert variant.program is not None
        if _shapes(tensors) != variant.tensors:
            return self._record(variant, args, kwargs, tensors)
        check_arguments(tensors)
        variant.refresh()
        trial = Trial(variant.program, tensors)
        status = trial.run()
        if status < 0 and not variant.refused(status):
            raise_status(status)
        if status < 0:
            return self._record(variant, args, kwargs, tensors)
        with recording() as notes:
            structure, returned, outputs = _detached(self._function(*args, **kwargs), tensors)
        try:
            places = [(slot_of(tensor), storage_of(tensor)) for tensor in outputs]
            form = form_of(notes, classify(notes, tensors), places, (returned, structure))
            if form != variant.form:
                assert variant.form is not None
                problem = first_difference(variant.form, form, notes)
            else:
                problem = trial.difference(notes)
            if problem:
                raise CaptureError(
                    f"{self._function.__qualname__}: a replay is not what the function computes: {problem}"
                )
            variant.checks_left -= 1
            copies = [tensor.clone() for tensor in outputs]
            return self._assemble(variant, tensors, copies)
        finally:
            release(notes)

    def _assemble(self, variant: Variant, tensors: Sequence[Tensor], outputs: Sequence[Tensor]) -> Any:
        def tensor(k: int) -> Tensor:
            kind, place = variant.returned[k]
            return outputs[place] if kind == "output" else tensors[place]

        return put_together(variant.result, tensor)


class _Bound:
    """A captured method of an object."""

    def __init__(self, compiled: Compiled, instance: Any) -> None:
        functools.update_wrapper(self, compiled)
        self._compiled, self._instance = compiled, instance

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method, by a replay where there is a program for such a call."""
        return self._compiled(self._instance, *args, **kwargs)

    @property
    def njit(self) -> NativeFunction:
        """The method for ``@njit`` code, C and SciPy; see ``NativeFunction``."""
        return NativeFunction(lambda: self._compiled, _name_of(self._compiled._function), (self._instance,))

    def epoch(
        self,
        *arrays: Any,
        batch_size: int | None = None,
        shuffle: bool = False,
        generator: Any = None,
        drop_last: bool = False,
        callback: Callable[[int, Any], Any] | None = None,
        every: int = 100,
        progress: bool = False,
    ) -> Any:
        """Call the method with batch after batch of some arrays; see ``Compiled.epoch``."""
        options = (batch_size, shuffle, generator, drop_last, callback, every, progress)
        return self._compiled._epoch((self._instance,), arrays, *options)


def _name_of(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__)


_CHECKS = 3  # replays that are checked, where no number is given
_PATIENCE = 4  # calls that differ from the one before


def _detached(value: Any, arguments: list[Tensor]) -> tuple[Any, tuple[tuple[str, int], ...], list[Tensor]]:
    """Return a result's structure, where each tensor in it comes from, and the new ones, out of the graph.

    When this returns nothing refers to the graph any more, so that it ends with the recording.
    """
    results: list[Tensor] = []
    structure = take_apart(value, results)
    outputs: list[Tensor] = []
    returned: list[tuple[str, int]] = []
    given = {storage_of(tensor) for tensor in arguments}
    for result in results:
        place = next((k for k, tensor in enumerate(arguments) if tensor is result), None)
        returned.append(("output", len(outputs)) if place is None else ("input", place))
        if place is None:
            plain = result.detach()  # an epoch copies results as they lie; an argument lies elsewhere in each call
            outputs.append(plain.clone() if storage_of(plain) in given else plain.contiguous())
    return structure, tuple(returned), outputs


def _modes() -> int:
    """Return what the results of operations depend on besides their operands: the thread's modes, the default dtype."""
    return machine.modes() | int(machine.state["default_dtype"]) << 8


def _release_unless_used(variant: Variant, notes: Any) -> None:
    if variant.program is None or variant.program.notes is not notes:
        release(notes)


def _same(a: Any, b: Any) -> bool:
    try:
        return bool(a == b)
    except Exception:  # a user's class whose comparison is no plain one
        return False


def _shapes(tensors: Sequence[Tensor]) -> list[tuple[Any, ...]]:
    return [
        (machine.dtype_of(t._handle), machine.shape_of(t._handle), machine.strides_of(t._handle), t.requires_grad)
        for t in tensors
    ]


def _plain_values(structure: Any) -> list[Any]:
    """Return the arguments that are no tensors."""
    if structure[0] == "plain":
        return [structure[2]]
    if structure[0] == "tensor":
        return []
    items = [item[1] if structure[0] is dict else item for item in structure[1]]
    return [value for item in items for value in _plain_values(item)]


def compile(
    function: Callable[..., Any] | None = None,
    *,
    limit: int = 8,
    check: bool | int = False,
    without: str | Collection[str] = (),
) -> Any:
    """Return a function that computes what ``function`` does, after two calls as one compiled call without Python.

    The first calls run the function as it is and note every operation: forward, backward, optimiser. When two calls in
    a row have computed the same, the operations become a program that later calls replay. Calls with other shapes,
    dtypes, modes or plain arguments get programs of their own.

    Args:
        function: of tensors, NumPy arrays, modules, optimisers, plain values and containers of them. What it returns is
            detached from the graph.
        limit: how many programs are kept.
        check: run the first three replays of each program (or so many) beside the function itself, from the same state,
            and raise CaptureError for the first operation whose results differ. The function's own side effects, such
            as printing, then happen in these calls too.
        without: names of passes over the program to leave out, of those in ``tapegrad.capture.PASSES``; results are
            the same. ``"generated"`` keeps loops from being compiled for groups of elementwise operations.

    Raises:
        ValueError: there is no pass of such a name.
        CaptureError: (from calls) the function does what a replay could not repeat, such as reading a value.

    Example:
        >>> import tapegrad as tg
        >>> @tg.compile
        ... def double(x):
        ...     return 2 * x
        >>> [double(tg.tensor([float(k)])).item() for k in range(4)]
        [0.0, 2.0, 4.0, 6.0]
    """
    if function is None:
        return functools.partial(compile, limit=limit, check=check, without=without)
    names = PASSES.keys() - check_names(without)
    return Compiled(function, limit, _CHECKS if check is True else int(check), sorted(names))
