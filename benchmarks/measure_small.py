"""The functions that scripts use most, on small float32 tensors, beside torch: the time of a call and the ratio.

Run: python benchmarks/measure_small.py [--quick] [name ...]

Each is called on tensors of about 3 and of about 1,000 elements, with operands that require no gradient but where the
name says so. Both libraries take turns in each round; the minimum over the rounds counts. A ratio above 1 says that we
are the faster ones; the worst come last.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import numpy as np
import torch

import tapegrad as tg

torch.set_num_threads(1)
Call = Callable[[], Any]


def _operands(library: Any, n: int) -> dict[str, Any]:
    """Return a vector and a matrix of about ``n`` elements, and what indexes them."""
    rng = np.random.default_rng(0)
    side = max(int(n**0.5), 3)

    def floats(*shape: int) -> Any:
        return library.from_numpy(rng.normal(size=shape).astype(np.float32))

    return {
        "m": library,
        "x": floats(n),
        "w": floats(n),
        "A": floats(side, side),
        "B": floats(side, side),
        "v": floats(side),
        "i": library.tensor([0, 2, 1]),
        "mask": library.from_numpy(rng.normal(size=n) > 0),
        "labels": library.from_numpy(rng.integers(0, side, side)),
        "parts": [floats(max(n // 4, 1)) for _ in range(4)],
        "g": floats(n).requires_grad_(),
        "s": library.tensor(0.5),
        "n": n,
        "side": side,
        "array": rng.normal(size=n).astype(np.float32),
        "f": _square_function(library),
    }


def _square_function(library: Any) -> Any:
    class Square(library.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            (x,) = ctx.saved_tensors
            return 2 * g * x

    return Square.apply


EXPRESSIONS = {
    name: compile(name, name, "eval")
    for name in """
x + w;x + 1;x * 2.5;x - w;x / w;-x;x ** 2;x.abs();x.exp();(x * x).log();x.sqrt();x.tanh();x.sigmoid();x.relu()
x.clamp(-1, 1);x > 0;x == w;x.pow(w);m.maximum(x, w);m.where(mask, x, w);m.lgamma(x);m.nn.functional.elu(x)
m.nn.functional.gelu(x);x.sum();x.mean();x.max();x.argmax();x.var();x.std();x.norm();A.sum(0);A.mean(1)
A.max(1);x.cumsum(0);x.prod();A.argmax(1);A.softmax(1);m.log_softmax(A, 1)
m.nn.functional.cross_entropy(A, labels);m.nn.functional.mse_loss(x, w);A @ B;A @ v;m.dot(x, w)
m.nn.functional.linear(A, B, v);m.einsum('ij,jk->ik', A, B);m.outer(v, v);x[0];x[1:3];x[i];x[mask];A[0]
A[:, 0];A[:, None];A[0, 1];x[-1];A[i];A[..., 0];A.T;A.t();A.T.contiguous();A.reshape(-1);A.view(-1)
x.unsqueeze(0);A.transpose(0, 1);A.flatten();A.permute(1, 0);x.expand(2, n);x.squeeze();A.clone();A.detach()
x.repeat(2);m.cat(parts);m.stack(parts);m.cat([A, B], 1);x.split(2);x.chunk(2);A.unbind(0);A.narrow(0, 0, 1)
A.select(0, 0);x.flip(0);m.zeros(n);m.ones(n);m.full((n,), 2.0);m.empty(n);m.arange(n);m.rand(n);m.randn(n)
m.eye(3);m.zeros_like(x);m.ones_like(x);m.linspace(0, 1, n);m.tensor([1.0, 2.0, 3.0]);m.tensor(1.0)
m.from_numpy(array);m.randint(0, 9, (n,));m.as_tensor(array);s.item();x.tolist();x.numpy();float(s)
bool(s > 0);x.shape;x.size(0);x.dim();len(x);x.numel();x.dtype;x.to(m.float64);x.float();x.long();x.double()
A.gather(1, labels[:, None]);m.nonzero(x > 0);x.sort();x.argsort();x.topk(2);x.median();x.mode();x.min()
x.any();(x > 0).all();m.isnan(x);m.equal(x, w);m.allclose(x, w);x.masked_fill(mask, 0.0);x.index_select(0, i)
m.tril(A);m.nn.functional.dropout(x, 0.5);m.nn.functional.layer_norm(A, (side,));m.nn.functional.softplus(x)
m.nn.functional.silu(x);m.round(x);m.floor(x);x.add_(0.0);x.mul_(1.0);x.zero_();g + 1;g * w;(g * w).sum()
(g * w).sum().backward();f(g);f(g).sum().backward()
""".replace("\n", ";").split(";")
    if name
}


def best(calls: dict[str, Call], rounds: int) -> dict[str, float]:
    """Return the least seconds of a call, each contestant having its turn in each round of about 0.2 ms."""
    repeats = {}
    for name, call in calls.items():
        for _ in range(3):
            call()
        start = time.perf_counter()
        call()
        repeats[name] = max(1, min(200, int(2e-4 / (time.perf_counter() - start + 1e-9))))
    found = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            found[name] = min(found[name], (time.perf_counter() - start) / repeats[name])
    return found


def measure(name: str, n: int, rounds: int) -> tuple[float, float]:
    """Return our seconds and torch's."""
    calls: dict[str, Call] = {}
    for library in (tg, torch):
        scope = _operands(library, n)
        calls[library.__name__] = eval(f"lambda: ({name})", scope)
    found = best(calls, rounds)
    return found["tapegrad"], found["torch"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="expressions that contain one of these; all by default")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    args = parser.parse_args()
    rows = []
    for name in EXPRESSIONS:
        if args.names and not any(part in name for part in args.names):
            continue
        for n in (3, 1000):
            ours, theirs = measure(name, n, 15 if args.quick else 60)
            rows.append((theirs / ours, name, n, ours, theirs))
    for ratio, name, n, ours, theirs in sorted(rows, reverse=True):
        print(f"{name:44s} {n:5d} elements {ours * 1e6:9.2f} us, torch {theirs * 1e6:9.2f} us, ratio {ratio:6.2f}")
    slower = sum(ratio < 1 for ratio, *_ in rows)
    print(f"{len(rows)} measured, {slower} slower than torch")


if __name__ == "__main__":
    main()
