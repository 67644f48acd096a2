"""Averages of a model's parameters over its training: stochastic weight averaging and exponential moving averages."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

from tapegrad.autograd.modes import no_grad
from tapegrad.nn.batch_norm import _BatchNorm
from tapegrad.nn.module import Module
from tapegrad.ops.updates_sgd import AVERAGE
from tapegrad.optim.group import Group, run_update
from tapegrad.optim.lr_scheduler.scheduler import LRScheduler, one_for_each_group
from tapegrad.optim.numbers import Numbers
from tapegrad.optim.optimizer import Optimizer
from tapegrad.runtime.dtype import int64
from tapegrad.runtime.handle import Tensor
from tapegrad.tensor.construct import check_device, tensor

__all__ = [
    "SWALR",
    "AveragedModel",
    "get_ema_avg_fn",
    "get_ema_multi_avg_fn",
    "get_swa_avg_fn",
    "get_swa_multi_avg_fn",
    "update_bn",
]

Average = Callable[[Tensor, Tensor, Any], Any]
MultiAverage = Callable[[Sequence[Tensor], Sequence[Tensor], Any], None]


def _check_decay(decay: float) -> None:
    if decay < 0.0 or decay > 1.0:
        raise ValueError(f"Invalid decay value {decay} provided. Please provide a value in [0,1] range.")


def _approach(averages: Sequence[Tensor], values: Sequence[Tensor], weight: float) -> None:
    """Move tensors of one dtype towards others by a share of the way: one pass over all where they are floats."""
    if not averages[0].is_floating_point():
        for average, value in zip(averages, values, strict=True):
            average.copy_(average + (value - average) * weight)
        return
    numbers = Numbers((weight,))
    pairs = zip(averages, values, strict=True)
    run_update(AVERAGE, [(average._handle, value._handle, numbers.handle) for average, value in pairs])


def get_ema_multi_avg_fn(decay: float = 0.999) -> MultiAverage:
    """Return a function that moves averages by 1 - ``decay`` of the way to the parameters, all in one pass.

    Raises:
        ValueError: a decay outside of 0 to 1.
    """
    _check_decay(decay)

    def ema_update(averages: Sequence[Tensor], params: Sequence[Tensor], num_averaged: Any) -> None:
        _approach(averages, params, 1 - decay)

    return ema_update


def get_swa_multi_avg_fn() -> MultiAverage:
    """Return a function that takes parameters into averages of ``num_averaged`` ones before, all in one pass."""

    def swa_update(averages: Sequence[Tensor], params: Sequence[Tensor], num_averaged: Any) -> None:
        _approach(averages, params, 1 / (int(num_averaged) + 1))

    return swa_update


def get_ema_avg_fn(decay: float = 0.999) -> Average:
    """Return a function that gives ``decay`` of an average and the rest of a parameter.

    Raises:
        ValueError: a decay outside of 0 to 1.
    """
    _check_decay(decay)

    def ema_update(average: Tensor, param: Tensor, num_averaged: Any) -> Any:
        return decay * average + (1 - decay) * param

    return no_grad()(ema_update)


def get_swa_avg_fn() -> Average:
    """Return a function that gives the average of ``num_averaged`` + 1 values, from that of all before and the last."""

    def swa_update(average: Tensor, param: Tensor, num_averaged: Any) -> Any:
        return average + (param - average) / (num_averaged + 1)

    return no_grad()(swa_update)


class AveragedModel(Module):
    """A copy of a model whose parameters are averages of the model's: of all (Izmailov et al. 2018) or moving ones.

    Args:
        model: the model, of which a copy is made.
        device: only the CPU.
        avg_fn: gives the new average of one parameter: ``avg_fn(average, param, num_averaged)``.
        multi_avg_fn: changes lists of averages in place; see ``get_ema_multi_avg_fn``. The mean of all by default.
        use_buffers: average the buffers too; else they are copied.

    Raises:
        AssertionError: both functions are given.

    Example:
        >>> import tapegrad as tg
        >>> from tapegrad.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
        >>> model = tg.nn.Linear(1, 1, bias=False)
        >>> averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
        >>> for value in (1.0, 3.0):
        ...     _ = tg.nn.init.constant_(model.weight, value)
        ...     averaged.update_parameters(model)
        >>> averaged(tg.tensor([1.0])).item()
        2.0
    """

    n_averaged: Tensor

    def __init__(
        self,
        model: Module,
        device: Any = None,
        avg_fn: Average | None = None,
        multi_avg_fn: MultiAverage | None = None,
        use_buffers: bool = False,
    ) -> None:
        super().__init__()
        if avg_fn is not None and multi_avg_fn is not None:
            raise AssertionError("Only one of avg_fn and multi_avg_fn should be provided")
        check_device(device)
        self.module = copy.deepcopy(model)
        self.register_buffer("n_averaged", tensor(0, dtype=int64))
        self.avg_fn = avg_fn
        self.multi_avg_fn = multi_avg_fn
        self.use_buffers = use_buffers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the averaged model.

        Args:
            *args: what the model is called with.
        """
        return self.module(*args, **kwargs)

    def update_parameters(self, model: Module) -> None:
        """Take the model's parameters, as they are now, into the averages; the first time, copy them."""
        with no_grad():
            averages, values = self._averaged(self.module), self._averaged(model)
            if int(self.n_averaged) == 0:
                for average, value in zip(averages, values, strict=True):
                    average.copy_(value)
            elif self.avg_fn is not None:
                for average, value in zip(averages, values, strict=True):
                    average.copy_(self.avg_fn(average, value, self.n_averaged))
            else:
                self._update_together(averages, values)
            if not self.use_buffers:
                for kept, buffer in zip(self.module.buffers(), model.buffers(), strict=True):
                    kept.detach().copy_(buffer.detach())
            self.n_averaged += 1

    def _averaged(self, model: Module) -> list[Tensor]:
        tensors = chain(model.parameters(), model.buffers() if self.use_buffers else ())
        return [tensor.detach() for tensor in tensors]

    def _update_together(self, averages: list[Tensor], values: list[Tensor]) -> None:
        update = self.multi_avg_fn or get_swa_multi_avg_fn()
        pairs = list(zip(averages, values, strict=True))
        for dtype in dict.fromkeys(average.dtype for average in averages):
            alike = [pair for pair in pairs if pair[0].dtype is dtype]
            update([pair[0] for pair in alike], [pair[1].to(dtype) for pair in alike], self.n_averaged)


def update_bn(loader: Iterable[Any], model: Module, device: Any = None) -> None:
    """Compute the statistics of a model's batch normalisations anew, over a whole data set.

    Args:
        loader: batches: the model's input, or a list or tuple that begins with it.
        model: the model; it is left in the mode in which it was.
        device: only the CPU.
    """
    check_device(device)
    momenta = {}
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.reset_running_stats()
            momenta[module] = module.momentum
    if not momenta:
        return
    was_training = model.training
    model.train()
    try:
        for module in momenta:
            module.momentum = None  # the mean of all batches
        with no_grad():
            for batch in loader:
                model(batch[0] if isinstance(batch, list | tuple) else batch)
    finally:
        for module, momentum in momenta.items():
            module.momentum = momentum
        model.train(was_training)


class SWALR(LRScheduler):
    """Goes from the learning rate to ``swa_lr`` within ``anneal_epochs`` steps, and stays there.

    Args:
        optimizer: whose groups are changed.
        swa_lr: the last learning rate, one for all groups or a list.
        anneal_epochs: how many steps it takes.
        anneal_strategy: ``cos`` or ``linear``.
        last_epoch: how many steps were taken before; -1 begins anew.

    Raises:
        ValueError: an unknown strategy, a negative number of steps, or a list of a wrong length.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        swa_lr: float | list[float],
        anneal_epochs: int = 10,
        anneal_strategy: str = "cos",
        last_epoch: int = -1,
    ) -> None:
        rates = one_for_each_group("swa_lr", optimizer, swa_lr)
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"anneal_strategy must be one of 'cos' or 'linear', instead got {anneal_strategy}")
        if not isinstance(anneal_epochs, int) or anneal_epochs < 0:
            raise ValueError(f"anneal_epochs must be equal or greater than 0, got {anneal_epochs}")
        for rate, group in zip(rates, optimizer.param_groups, strict=True):
            group["swa_lr"] = rate
        self._anneal_strategy = anneal_strategy
        self.anneal_epochs = anneal_epochs
        super().__init__(optimizer, last_epoch)

    def _share(self, step: int) -> float:
        """Return how far on the way to the last learning rate a step is."""
        t = max(0.0, min(1.0, step / max(1, self.anneal_epochs)))
        return (1 - math.cos(math.pi * t)) / 2 if self._anneal_strategy == "cos" else t

    def _rate(self, group: Group, base: Any) -> Any:
        """The first rate is worked out from the last one, so that what others multiplied it by stays."""
        step = max(1, self._step_count - 1) if self.anneal_epochs == 0 else self._step_count - 1
        before, share = self._share(step - 1), self._share(step)
        target = group["swa_lr"]
        first = target if before == 1 else (group["lr"] - before * target) / (1 - before)
        return target * share + first * (1 - share)
