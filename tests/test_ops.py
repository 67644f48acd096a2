"""Every op, from its samples: values, entries, layouts, derivatives, in-place forms, torch's answers."""

import functools

import numpy as np
import pytest
import samples
from samples import LAYOUTS, Sample, in_dtype, map_arrays, samples_of, special_arguments

import tapegrad as tg
from tapegrad.ops.calls import call, call_several, functions
from tapegrad.ops.registry import registry
from tapegrad.runtime.layout import ELEMENTWISE, MACHINE_OPS
from tapegrad.runtime.machine import machine

DTYPES = ("bool", "uint8", "int32", "int64", "float32", "float64")
STEP = 1e-5  # of central differences: errors of about STEP**2 and eps / STEP, 1e-10 and 2e-11
CLOSE = {"rtol": 2e-6, "atol": 2e-7}  # of a derivative to its central difference

TESTED = {name: op for name, op in registry.items() if op.reference is not None}
DIFFERENTIABLE = {name: op for name, op in TESTED.items() if op.vjp is not None}
ELEMENTWISE_OPS = {name: op for name, op in TESTED.items() if op.kind == ELEMENTWISE and not callable(op.samples)}

every_op = pytest.mark.parametrize("name", TESTED)
every_differentiable_op = pytest.mark.parametrize("name", DIFFERENTIABLE)


def function_of(op):
    return functions.get(op.name) or functools.partial(call_several if op.outputs > 1 else call, op)


def as_list(value):
    return list(value) if isinstance(value, list | tuple) else [value]


def run(op, sample, change):
    """Call the op with ``change(array)`` in place of the arrays; return its results."""
    args, kwargs = sample.mapped(change)
    return finish(sample, function_of(op)(*args, **kwargs))


def finish(sample, results):
    return as_list(sample.after(results) if sample.after else results)


def prepared(sample, tensor):
    return sample.prepare(tensor) if sample.prepare and "float" in str(tensor.dtype) else tensor


def values_of(results):
    return [result.detach().numpy() for result in results]


def expected(op, sample, dtype, like):
    """Return the reference's results: in float64 where the op computes in floats, else in the integers' own dtype."""
    floating = any("float" in str(result.dtype) for result in like)

    def change(array):
        small = in_dtype(array, dtype)
        wide = small.astype(np.float64) if floating and array.dtype == np.float64 else small
        return prepared(sample, wide)

    args, kwargs = sample.mapped(change)
    with np.errstate(all="ignore"):
        return [np.asarray(value) for value in finish(sample, op.reference(*args, **kwargs))]


def tolerance(sample, dtype):
    eps = float(np.finfo(dtype if "float" in dtype else "float32").eps) * sample.tolerance
    return {"rtol": eps, "atol": eps}


def check_values(op, sample, dtype, layout=lambda array: array):
    results = run(op, sample, lambda a: prepared(sample, tg.from_numpy(layout(in_dtype(a, dtype)))))
    wanted = expected(op, sample, dtype, results)
    assert len(results) == len(wanted)
    for result, value in zip(results, wanted, strict=True):
        assert tuple(result.shape) == value.shape
        got = result.numpy()
        np.testing.assert_allclose(got.astype(np.float64), value.astype(np.float64), **tolerance(sample, dtype))


def dtypes_of(op, sample):
    computed = [dtype for code, dtype in enumerate(DTYPES) if op.dtypes >> code & 1]
    return [dtype for dtype in computed if sample.dtypes is None or dtype in sample.dtypes]


# Without a reference: the machine's own ops, which every backward pass runs
ELSEWHERE = {"cast", "copy", "zeros_like", "sum_to_shape", "expand_like"} | set(MACHINE_OPS)


def test_every_op_has_a_reference_or_says_why_not():
    own = {n: op for n, op in registry.items() if op.stamp == ""}  # not what tests have declared by tg.library
    untested = [n for n, op in own.items() if op.reference is None and not isinstance(op.samples, str)]
    assert sorted(set(untested) - ELSEWHERE) == []


@every_op
def test_values_in_every_dtype(name):
    op = TESTED[name]
    for sample in samples_of(op):
        for dtype in dtypes_of(op, sample):
            check_values(op, sample, dtype)


@every_op
def test_values_in_every_layout(name):
    op = TESTED[name]
    for sample in samples_of(op):
        for layout_name, layout in LAYOUTS.items():
            if "float64" in dtypes_of(op, sample) and (sample.layouts is None or layout_name in sample.layouts):
                laid = Sample(*sample.mapped(lambda a: layout(a)), sample.options)  # noqa: B023 (used in this turn)
                check_values(op, laid, "float64", layout)


@every_op
def test_unsupported_dtypes_are_refused(name):
    op = TESTED[name]
    refused = [dtype for code, dtype in enumerate(DTYPES) if not op.dtypes >> code & 1]
    if op.kind != ELEMENTWISE or callable(op.samples) or op.unpromoted:
        pytest.skip("its operands have dtypes of their own")
    for dtype in refused:
        arrays = [np.ones(2, dtype) for _ in op.inputs]
        with pytest.raises((RuntimeError, TypeError), match=r"not implemented|not supported|must not be"):
            call(op, *[tg.from_numpy(array) for array in arrays])


class Differentiation:
    """A sample whose float64 arrays require a gradient, and the op's results from them."""

    def __init__(self, op, sample):
        self.op, self.sample = op, sample
        self.points = [array.copy() for array in sample.varied()]

    def results(self, points, requires_grad=False):
        """Return the float results at these points, and the leaves."""
        leaves = [tg.tensor(point, requires_grad=requires_grad) for point in points]
        waiting = iter(leaves)
        varied = {id(array) for array in self.sample.varied()}
        change = lambda a: prepared(self.sample, next(waiting) if id(a) in varied else tg.tensor(a))  # noqa: E731
        results = run(self.op, self.sample, change)
        return [result for result in results if "float" in str(result.dtype)], leaves

    def values(self, points):
        return values_of(self.results(points)[0])

    def gradients(self, points, cotangents, create_graph=False):
        """Return the gradients of <results, cotangents>, zeros where there is none; and the leaves for create_graph."""
        results, leaves = self.results(points, requires_grad=True)
        given = [tg.tensor(cotangent, requires_grad=create_graph) for cotangent in cotangents]
        kept = [(result, g) for result, g in zip(results, given, strict=True) if result.requires_grad]
        grads = tg.autograd.grad(
            [result for result, _ in kept], leaves, [g for _, g in kept], create_graph=create_graph, allow_unused=True
        )
        if create_graph:
            return grads, [*leaves, *given]
        return [np.zeros(p.shape) if g is None else g.numpy() for g, p in zip(grads, points, strict=True)]


def directional(function, points, k, direction):
    """Return the central difference of a function of several arrays, along a direction of the k-th."""
    moved = [[p + sign * STEP * direction if i == k else p for i, p in enumerate(points)] for sign in (1, -1)]
    up, down = function(moved[0]), function(moved[1])
    return [(a - b) / (2 * STEP) for a, b in zip(up, down, strict=True)]


def inner(a, b):
    return sum(float(np.sum(x * y)) for x, y in zip(a, b, strict=True))


def random_like(arrays, seed):
    random = np.random.default_rng(seed)
    return [random.standard_normal(np.shape(array)) for array in arrays]


def differentiable_samples(op, option):
    found = [s for s in samples_of(op) if s.gradient and getattr(s, option) and s.floats()]
    return [s for s in found if all(a.size < 100 for a in s.arrays())]


@every_differentiable_op
def test_first_derivative(name):
    for sample in differentiable_samples(DIFFERENTIABLE[name], "gradient"):
        case = Differentiation(DIFFERENTIABLE[name], sample)
        cotangents = random_like(case.values(case.points), 1)
        gradients = case.gradients(case.points, cotangents)
        for k, direction in enumerate(random_like(case.points, 2)):
            assert gradients[k].shape == case.points[k].shape
            slope = inner(directional(case.values, case.points, k, direction), cotangents)
            np.testing.assert_allclose(np.sum(gradients[k] * direction), slope, **CLOSE, err_msg=f"operand {k}")


@every_differentiable_op
def test_second_derivative(name):
    for sample in differentiable_samples(DIFFERENTIABLE[name], "second"):
        case = Differentiation(DIFFERENTIABLE[name], sample)
        cotangents = random_like(case.values(case.points), 1)
        weights = random_like(case.points, 3)
        grads, leaves = case.gradients(case.points, cotangents, create_graph=True)
        kept = [(g, tg.tensor(w)) for g, w in zip(grads, weights, strict=True) if g is not None and g.requires_grad]
        if not kept:
            continue
        seconds = tg.autograd.grad([g for g, _ in kept], leaves, [w for _, w in kept], allow_unused=True)
        points = [*case.points, *cotangents]
        n = len(case.points)
        for k, direction in enumerate(random_like(points, 4)):
            differences = directional(lambda at: case.gradients(at[:n], at[n:]), points, k, direction)  # noqa: B023
            got = 0.0 if seconds[k] is None else float(np.sum(seconds[k].numpy() * direction))
            np.testing.assert_allclose(got, inner(differences, weights), **CLOSE, err_msg=f"operand {k}")


@every_differentiable_op
def test_one_entry_is_recorded(name):
    op = DIFFERENTIABLE[name]
    # Private ops trust their attributes: one that says float32 must not meet the samples' float64.
    for sample in [each for each in samples_of(op) if each.dtypes is None or "float64" in each.dtypes][:2]:
        varied = {id(array) for array in sample.varied()}
        leaves = {id(a): tg.tensor(a, requires_grad=id(a) in varied) for a in sample.arrays()}
        args, kwargs = map_arrays(sample.args, lambda a: leaves[id(a)]), {}  # noqa: B023 (used in this turn)
        kwargs = {key: map_arrays(value, lambda a: leaves[id(a)]) for key, value in sample.kwargs.items()}  # noqa: B023
        if sample.prepare or not any(leaf.requires_grad for leaf in leaves.values()):
            continue
        before = len(machine.table("entries"))
        results = function_of(op)(*args, **kwargs)
        recorded = machine.table("entries")["op"][before:]
        assert [code for code in recorded if code != registry["cast"].code] == [op.code]
        del results


@every_op
def test_in_place_form(name):
    op, in_place = TESTED[name], functions.get(f"{name}_")
    if in_place is None or name not in functions:
        pytest.skip("has none")
    dtype = "float64" if op.dtypes >> DTYPES.index("float64") & 1 else "int64"
    for sample in samples_of(op):
        if not sample.args or not isinstance(sample.args[0], np.ndarray) or sample.args[0].dtype != np.float64:
            continue
        args, kwargs = sample.mapped(lambda a: tg.tensor(in_dtype(a, dtype)))
        wanted = functions[name](*args, **kwargs)
        if wanted.shape != args[0].shape:
            continue
        address = args[0].data_ptr()
        result = in_place(*args, **kwargs)
        assert result is args[0] and result.data_ptr() == address
        np.testing.assert_array_equal(result.numpy(), wanted.numpy())


# ---- torch as the oracle, where it is installed ----

# Where torch's answer at special values is not the one to have: which inputs are compared
APART = {
    "silu": lambda x: x != -np.inf,  # -inf / (1 + e^inf): torch's nan, where the limit is 0
    "softsign": np.isfinite,  # torch computes inf / inf in its gradient
    "copysign": np.isfinite,  # likewise
    "digamma": lambda x: x > -1,  # torch is finite at the poles of its derivative
}


def torch_function(torch, name):
    for place in (torch, torch.nn.functional, torch.special, torch.linalg, torch.Tensor):
        if found := getattr(place, name, None):
            return found
    return None


def torch_results(torch, function, sample, change):
    args, kwargs = sample.mapped(lambda a: prepared(sample, change(a)))
    return finish(sample, function(*args, **kwargs))


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def public_samples(op):
    special = special_arguments(op) if op.kind == ELEMENTWISE else None
    found = [sample for sample in [*samples_of(op), *([special] if special else [])] if sample.torch]
    return [compared(op.name, sample) for sample in found]


def compared(name, sample):
    """Return the sample without the inputs of which torch's answer is set aside."""
    if name not in APART or not sample.args[0].ndim or len({a.shape for a in sample.arrays()}) > 1:
        return sample
    keep = APART[name](sample.args[0])
    return Sample(*sample.mapped(lambda a: a[keep]), sample.options)


def oracle(torch, name):
    function = torch_function(torch, name) if name in functions else None
    return function or pytest.skip("torch has no such function")


@every_op
def test_torch_gives_the_same_values_and_dtypes(name, torch):
    op, function = TESTED[name], oracle(torch, name)
    for sample in public_samples(op):
        for dtype in dtypes_of(op, sample):
            try:
                wanted = torch_results(torch, function, sample, lambda a: torch.tensor(in_dtype(a, dtype)))  # noqa: B023
            except (RuntimeError, TypeError, IndexError):
                continue  # torch has no such kernel
            results = run(op, sample, lambda a: prepared(sample, tg.tensor(in_dtype(a, dtype))))  # noqa: B023
            for result, value in zip(results, wanted, strict=True):
                assert str(result.dtype).split(".")[1] == str(value.dtype).split(".")[1], dtype
                got, value = result.numpy().astype(np.float64), value.numpy().astype(np.float64)
                np.testing.assert_allclose(got, value, **tolerance(sample, dtype), err_msg=dtype)


@every_differentiable_op
def test_torch_gives_the_same_gradient(name, torch):
    """At zeros, ties, infinities and nan too, where no difference quotient tells what is right."""
    op, function = DIFFERENTIABLE[name], oracle(torch, name)
    for sample in public_samples(op):
        if not sample.gradient or not sample.floats() or "float64" not in dtypes_of(op, sample):
            continue
        leaves = []

        def leaf(a):
            tensor = torch.tensor(a, requires_grad=a.dtype == np.float64)
            leaves.extend([tensor] if tensor.requires_grad else [])  # noqa: B023 (used in this turn)
            return tensor

        results = [y for y in torch_results(torch, function, sample, leaf) if y.dtype.is_floating_point]
        cotangents = random_like([y.detach().numpy() for y in results], 5)
        try:
            wanted = torch.autograd.grad(results, leaves, [torch.tensor(g) for g in cotangents], allow_unused=True)
        except (RuntimeError, NotImplementedError):
            continue  # torch has no derivative here
        case = Differentiation(op, sample)
        for k, (got, value) in enumerate(zip(case.gradients(case.points, cotangents), wanted, strict=True)):
            value = np.zeros(got.shape) if value is None else value.numpy(force=True)
            # torch has 1 / 6 in float32 (hardsigmoid) and polygamma to 4e-10: this test is about the special values
            np.testing.assert_allclose(got, value, rtol=1e-7, atol=1e-12, err_msg=f"operand {k}")


# ---- the harness itself ----


def test_samples_are_the_same_each_time():
    for op in TESTED.values():
        first, second = samples_of(op), samples_of(op)
        for a, b in zip(first, second, strict=True):
            for x, y in zip(a.arrays(), b.arrays(), strict=True):
                np.testing.assert_array_equal(x, y)


def test_make_keeps_away_from_kinks():
    values = samples.Make("kinks")(1000, low=-1, high=1, kinks=(0, 1))
    assert np.abs(values).min() >= samples.DISTANCE and np.abs(values - 1).min() >= samples.DISTANCE
    assert values.min() >= -1 and values.max() <= 1


def test_a_wrong_rule_is_found():
    """Each check must be able to fail: exp's samples against the rule of sin."""
    sample = Sample((np.array([0.3, 0.7]),))
    case = Differentiation(registry["exp"], sample)
    slope = directional(lambda points: [np.sin(points[0])], case.points, 0, np.ones(2))
    assert abs(np.sum(case.gradients(case.points, [np.ones(2)])[0]) - np.sum(slope)) > 0.1
