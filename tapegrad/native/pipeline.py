"""Numba with less to do: what our functions, which are plain loops over pointers and records, need of its compiler.

Nearly all of the time to compile is spent in Numba's own Python code. CPU seconds saved on ``emit``, the largest
function, of 5.9: 0.6 by the passes left out here, 0.7 by answering each question about an operator's types only once,
0.4 by doing without the garbage collector, 0.4 by not importing SciPy, in which Numba looks for a BLAS.
"""

import contextlib
import gc
import importlib.util
from collections.abc import Iterator
from typing import Any

from numba.core import types
from numba.core.compiler import CompilerBase
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import PassManager
from numba.core.errors import TypingError
from numba.core.typed_passes import (
    AnnotateTypes,
    IRLegalization,
    NativeLowering,
    NoPythonBackend,
    NoPythonSupportedFeatureValidation,
    NopythonTypeInference,
    PreLowerStripPhis,
)
from numba.core.untyped_passes import (
    DeadBranchPrune,
    FixupArgs,
    GenericRewrites,
    IRProcessing,
    ReconstructSSA,
    TranslateByteCode,
)

# Left out are the passes for what our functions do not have: contexts, closures made inside, array expressions,
# raising, inlined overloads, literal arguments and parallel loops.
_PASSES = (
    TranslateByteCode,
    FixupArgs,
    IRProcessing,
    DeadBranchPrune,
    GenericRewrites,
    ReconstructSSA,
    DeadBranchPrune,
    NopythonTypeInference,
    PreLowerStripPhis,
    NoPythonSupportedFeatureValidation,
    IRLegalization,
    AnnotateTypes,
    NativeLowering,
    NoPythonBackend,
)
_REMEMBERED = (types.Number, types.Boolean, types.Omitted)  # exact values: they hold nothing alive
_FunctionType = types.functions.BaseFunction
_resolve = _FunctionType.get_call_type
_answers: dict[Any, Any] = {}


class Pipeline(CompilerBase):  # type: ignore[misc]
    """Numba's pipeline for native code with only the passes that our functions need."""

    def define_pipelines(self) -> list[PassManager]:
        """Return the passes, as Numba asks for them."""
        manager = PassManager("tapegrad")
        for compiler_pass in _PASSES:
            manager.add_pass(compiler_pass, compiler_pass.__name__)
        manager.finalize()
        return [manager]


@contextlib.contextmanager
def quick_compilation() -> Iterator[None]:
    """Within this, Numba compiles faster; elsewhere it is as it was."""
    with global_compiler_lock:
        collecting = gc.isenabled()
        _load_implementations()
        gc.disable()
        _FunctionType.get_call_type = _get_call_type
        try:
            yield
        finally:
            _FunctionType.get_call_type = _resolve
            if collecting:
                gc.enable()


def _get_call_type(function: Any, context: Any, arguments: Any, keywords: Any) -> Any:
    """Return the signature of an operator or builtin for the types of its arguments; raise TypingError for none.

    Numba asks up to four times for each place in the source, and most questions end in an exception with a long text.
    """
    if keywords or not all(isinstance(argument, _REMEMBERED) for argument in arguments):
        return _resolve(function, context, arguments, keywords)
    key = (function, tuple(arguments))
    if key not in _answers:
        try:
            signature = _resolve(function, context, arguments, keywords)
            _answers[key] = signature, function.get_impl_key(signature)
        except TypingError as error:
            _answers[key] = None, str(error)
    signature, detail = _answers[key]
    if signature is None:
        raise TypingError(detail)
    function._impl_keys[signature.args] = detail  # equal functions may be different objects
    return signature


def _load_implementations() -> None:
    """Import Numba's array functions, on which it insists, without importing SciPy before anything needs it."""
    from numba.np import linalg

    ensure_blas = linalg.ensure_blas
    linalg.ensure_blas = _expect_blas
    try:
        import numba.np.arraymath  # noqa: F401
    finally:
        linalg.ensure_blas = ensure_blas


def _expect_blas() -> None:
    if importlib.util.find_spec("scipy") is None:
        raise ImportError("no SciPy")
