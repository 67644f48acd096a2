"""Logistic regression with an L2 penalty by LBFGS, to the coefficients that scikit-learn finds.

    python docs/examples/logistic_lbfgs.py [--steps N] [--out DIR] [--quick]

Table: the tumours of scikit-learn's `breast_cancer`, 30 measures of each, brought to mean 0 and deviation 1.
Reached: the largest difference between the 31 coefficients and scikit-learn's is 2e-7, after 72 evaluations in 0.1 s
(two seconds in all, most of it the import of scikit-learn).
"""

import argparse
import time
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression

import tapegrad as tg
from tapegrad import nn, optim
from tapegrad.nn import functional as F

parser = argparse.ArgumentParser(description="Logistic regression by LBFGS against scikit-learn")
parser.add_argument("--steps", type=int, default=500, help="the most iterations of LBFGS")
parser.add_argument("--penalty", type=float, default=1.0, help="scikit-learn's 1/C")
parser.add_argument("--out", type=Path, default=Path("runs/logistic_lbfgs"), help="where the picture goes")
parser.add_argument("--resume", action="store_true", help="accepted as by the longer programs; this one takes a second")
parser.add_argument("--quick", action="store_true", help="nothing to leave out: the run is short")


def fit(x: tg.Tensor, y: tg.Tensor, penalty: float, steps: int) -> tuple[nn.Module, list[float]]:
    """Minimise the summed cross-entropy plus half the penalty times the squared weights (not the intercept).

    Returns:
        The model, and the loss at every evaluation.
    """
    model = nn.Linear(x.shape[1], 1, dtype=tg.float64)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    optimizer = optim.LBFGS(
        model.parameters(),
        max_iter=steps,
        tolerance_grad=3e-7,  # where the loss, about 38, no longer shows a difference: 38 x 2e-16 is 1e-7 squared
        tolerance_change=0,
        history_size=20,
        line_search_fn="strong_wolfe",
    )
    losses = []

    def closure() -> tg.Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(model(x).squeeze(1), y, reduction="sum")
        loss = loss + 0.5 * penalty * model.weight.square().sum()
        loss.backward()
        losses.append(loss.item())
        return loss

    optimizer.step(closure)
    return model, losses


def draw(path: Path, losses: list[float], ours: np.ndarray, theirs: np.ndarray) -> None:
    """Draw the way to the minimum, and both solutions' weights."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    left.semilogy(np.array(losses) - min(losses) + 1e-12)
    left.set(xlabel="evaluation", ylabel="loss above its minimum", title="LBFGS, strong Wolfe line search")
    right.bar(np.arange(len(ours)), ours, label="tapegrad")
    right.plot(np.arange(len(theirs)), theirs, "k.", label="scikit-learn")
    right.set(xlabel="measure", ylabel="weight", title=f"largest difference {abs(ours - theirs).max():.1e}")
    right.set_ylim(top=1.1)
    right.legend(loc="upper left", ncols=2)
    figure.savefig(path, dpi=80)


def main() -> None:
    """Fit both, compare, draw."""
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    x, y = tg.datasets.breast_cancer(dtype=tg.float64)
    x = (x - x.mean(0)) / x.std(0, unbiased=False)

    start = time.perf_counter()
    model, losses = fit(x, y.double(), args.penalty, args.steps)
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    reference = LogisticRegression(C=1 / args.penalty, solver="newton-cholesky", tol=1e-12).fit(x.numpy(), y.numpy())
    their_seconds = time.perf_counter() - start

    ours = np.append(model.weight.detach().numpy(), model.bias.detach().numpy())
    theirs = np.append(reference.coef_, reference.intercept_)
    accuracy = ((model(x).squeeze(1) > 0) == y.bool()).double().mean().item()
    print(f"tapegrad      loss {losses[-1]:.12f} after {len(losses)} evaluations, {seconds:.2f} s")
    print(f"scikit-learn  {int(reference.n_iter_[0])} iterations of Newton, {their_seconds:.2f} s")
    print(f"accuracy {accuracy:.4f}; largest difference between the coefficients {abs(ours - theirs).max():.2e}")
    draw(args.out / "weights.png", losses, ours[:-1], theirs[:-1])
    print(args.out / "weights.png")


if __name__ == "__main__":
    main()
