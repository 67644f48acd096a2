"""Parametrisations that are ready to use: spectral_norm, weight_norm."""

from __future__ import annotations

from typing import Any

from tapegrad.autograd.modes import no_grad
from tapegrad.nn import functional as F
from tapegrad.nn.module import Module
from tapegrad.nn.utils.parametrize import register_parametrization
from tapegrad.ops.calls import functions, ndim_of, normal_dim, shape_of
from tapegrad.runtime.handle import Tensor


class _SpectralNorm(Module):
    """A weight over its largest singular value, which power iterations follow (Miyato 2018, arXiv:1802.05957)."""

    def __init__(self, weight: Tensor, n_power_iterations: int = 1, dim: int = 0, eps: float = 1e-12) -> None:
        super().__init__()
        self.dim, self.eps = normal_dim(dim, ndim_of(weight)), eps
        if n_power_iterations <= 0:
            raise ValueError(
                f"Expected n_power_iterations to be positive, but got n_power_iterations={n_power_iterations}"
            )
        if ndim_of(weight) < 2:
            return
        self.n_power_iterations = n_power_iterations
        with no_grad():
            matrix = self._as_matrix(weight)
            for name, length in zip(("_u", "_v"), shape_of(matrix), strict=True):
                drawn = functions["randn"](length, dtype=weight.dtype)
                self.register_buffer(name, F.normalize(drawn, dim=0, eps=eps))
            self._iterate(matrix, 15)

    def _as_matrix(self, weight: Tensor) -> Tensor:
        if self.dim != 0:
            weight = functions["movedim"](weight, self.dim, 0)
        return functions["flatten"](weight, 1)

    def _iterate(self, matrix: Tensor, count: int) -> None:
        for _ in range(count):
            self._u.copy_(F.normalize(matrix @ self._v, dim=0, eps=self.eps))
            self._v.copy_(F.normalize(matrix.t() @ self._u, dim=0, eps=self.eps))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight over its largest singular value."""
        if ndim_of(weight) < 2:
            return F.normalize(weight, dim=0, eps=self.eps)
        matrix = self._as_matrix(weight)
        if self.training:
            with no_grad():
                self._iterate(matrix, self.n_power_iterations)
        # copies: the next forward writes into the buffers, and several may come before backward
        u, v = self._u.clone(), self._v.clone()
        return weight / functions["dot"](u, functions["mv"](matrix, v))

    def right_inverse(self, value: Tensor) -> Tensor:
        """Return the value."""
        return value


def spectral_norm(
    module: Any, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> Any:
    """Divide a weight by its largest singular value whenever it is read (Miyato et al. 2018, arXiv:1802.05957).

    Args:
        module: the module that has the weight.
        name: the weight's name.
        n_power_iterations: power iterations of a read in training.
        eps: the least norm that is divided by.
        dim: the dimension of the outputs; 0, and 1 in transposed convolutions, by default.

    Returns:
        The module.

    Raises:
        ValueError: there is no such weight.

    Example:
        >>> import tapegrad as tg
        >>> layer = tg.nn.utils.parametrizations.spectral_norm(tg.nn.Linear(20, 40))
        >>> 0.9 < tg.linalg.matrix_norm(layer.weight, 2).item() < 1.1
        True
    """
    weight = getattr(module, name, None)
    if not isinstance(weight, Tensor):
        raise ValueError(f"Module '{module}' has no parameter or buffer with name '{name}'")
    if dim is None:
        dim = 1 if any("ConvTranspose" in base.__name__ for base in type(module).__mro__) else 0
    return register_parametrization(module, name, _SpectralNorm(weight, n_power_iterations, dim, eps))


class _WeightNorm(Module):
    """A weight as a length g times a direction v / |v| (Salimans and Kingma 2016, arXiv:1602.07868)."""

    def __init__(self, dim: int | None = 0) -> None:
        super().__init__()
        self.dim = -1 if dim is None else dim

    def _norm(self, weight: Tensor) -> Tensor:
        if self.dim == -1:
            return functions["_vector_norm"](weight, 2.0, None, False)
        kept = normal_dim(self.dim, ndim_of(weight))
        return functions["_vector_norm"](weight, 2.0, [d for d in range(ndim_of(weight)) if d != kept], True)

    def forward(self, weight_g: Tensor, weight_v: Tensor) -> Tensor:
        """Return g v / |v|."""
        return weight_v * (weight_g / self._norm(weight_v))

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the length and the weight, as which any direction serves."""
        return self._norm(weight), weight


def weight_norm(module: Any, name: str = "weight", dim: int | None = 0) -> Any:
    """Learn a weight's length and direction apart (Salimans and Kingma 2016, arXiv:1602.07868).

    Args:
        module: the module that has the weight.
        name: the weight's name.
        dim: the dimension of which each index has a length of its own; None for one length of all.

    Returns:
        The module; its ``parametrizations.weight.original0`` is the length, ``original1`` the direction.
    """
    register_parametrization(module, name, _WeightNorm(dim), unsafe=True)

    def take_old_names(state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        old = [f"{prefix}{name}_g", f"{prefix}{name}_v"]
        if all(key in state_dict for key in old):
            for k, key in enumerate(old):
                state_dict[f"{prefix}parametrizations.{name}.original{k}"] = state_dict.pop(key)

    module._register_load_state_dict_pre_hook(take_old_names)
    return module


__all__ = ["spectral_norm", "weight_norm"]
