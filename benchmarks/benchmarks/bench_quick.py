"""What matters most, from the other modules: some 2 minutes in all, to be run often."""

from . import bench_bandwidth, bench_dispatch, bench_ops, bench_products, bench_steps

OPS = """
abs add addmm argmax bmm cat clone cumsum div embedding_rows erf exp gather gelu_tanh index
leaky_relu log log_softmax logsumexp matrix_transpose max_along max_pool mean mm mul norm_channels norm_rows
pad_constant permute pow relu scatter_add sigmoid silu sin softmax sort sqrt stack sub sum sum_by_index tanh var
where
"""
STEPS = [name for name in bench_steps.STEPS if not name.startswith(("wide", "chain", "layer", "cross"))]

_WATCHED = [
    *[(bench_ops.Forward, "track_relative_time", (name, "float32", 10_000)) for name in OPS.split()],
    *[(bench_dispatch.Forward, "track_relative_time", (name,)) for name in bench_dispatch.Forward.params[0]],
    *[(bench_dispatch.Chains, name, ()) for name in vars(bench_dispatch.Chains) if name.startswith("track_")],
    (bench_dispatch.Call, "track_relative_time_calling_a_program", ()),
    *[
        (bench_products.Matmul, "track_relative_to_peak", (sizes, "float32", "nn"))
        for sizes in ("64x64x64", "128x10x128", "256x256x256")
    ],
    *[
        (bench_products.Convolution, "track_relative_to_peak", (name, "with backward"))
        for name in bench_products.Convolution.params[0]
        if name.startswith("digits")
    ],
    *[(bench_bandwidth.Ops, "track_relative_to_copy", (name,)) for name in ("x + y", "softmax", "transpose")],
    *[(bench_bandwidth.SmallOptimizers, "track_relative_time", (name,)) for name in ("SGD", "Adam", "AdamW")],
    *[(bench_steps.Relative, "track_relative_time", (name, "captured")) for name in STEPS],
]


def _name(kind, method, arguments):
    what = arguments[0] if arguments else method.removeprefix("track_relative_time_").replace("_", " ")
    return f"{kind.__module__.split('_')[-1]}: {what}"


CASES = {_name(*each): each for each in _WATCHED}
assert len(CASES) == len(_WATCHED), "two benchmarks have one name"


class Quick:
    """Relative times, in the units of the benchmarks that they are from."""

    params = [list(CASES)]
    param_names = ["benchmark"]

    def setup(self, benchmark):
        kind, self.method, self.arguments = CASES[benchmark]
        self.bench = kind()
        if hasattr(self.bench, "setup"):
            self.bench.setup(*self.arguments)

    def track_watched(self, benchmark):
        return getattr(self.bench, self.method)(*self.arguments)

    track_watched.unit = "turns, or times the limit"
