"""The optimisers' formulas in NumPy, one parameter and one step at a time, with the state in a dict."""

import numpy as np


def _decayed(w, g, weight_decay=0.0, maximize=False):
    return (-g if maximize else g) + weight_decay * w


def by_sgd(w, g, state, lr, momentum=0, dampening=0, nesterov=False, **decay):
    g = _decayed(w, g, **decay)
    if momentum:
        b = state["b"] = momentum * state["b"] + (1 - dampening) * g if "b" in state else g
        g = g + momentum * b if nesterov else b
    return w - lr * g


def _averages(w, g, state, lr, betas, weight_decay, maximize, apart):
    """Count the step; return (w, g, m, v, t)."""
    t = state["t"] = state.get("t", 0) + 1
    g = _decayed(w, g, 0.0 if apart else weight_decay, maximize)
    w = w * (1 - lr * weight_decay) if apart else w
    m = state["m"] = betas[0] * state.get("m", 0) + (1 - betas[0]) * g
    v = state["v"] = betas[1] * state.get("v", 0) + (1 - betas[1]) * g * g
    return w, g, m, v, t


def by_adam(w, g, state, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, amsgrad=False, maximize=False, apart=False):
    w, g, m, v, t = _averages(w, g, state, lr, betas, weight_decay, maximize, apart)
    if amsgrad:
        v = state["largest"] = np.maximum(state.get("largest", 0), v)
    return w - lr * m / (1 - betas[0] ** t) / (np.sqrt(v / (1 - betas[1] ** t)) + eps)


def by_adamw(w, g, state, lr, weight_decay=0.01, **options):
    return by_adam(w, g, state, lr, weight_decay=weight_decay, apart=True, **options)


def by_nadam(
    w,
    g,
    state,
    lr,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0,
    momentum_decay=4e-3,
    decoupled_weight_decay=False,
    maximize=False,
):
    w, g, m, v, t = _averages(w, g, state, lr, betas, weight_decay, maximize, decoupled_weight_decay)
    mu, following = (betas[0] * (1 - 0.5 * 0.96 ** (s * momentum_decay)) for s in (t, t + 1))
    product = state["product"] = np.float32(state.get("product", np.float32(1))) * np.float32(mu)
    product = float(product)
    direction = (1 - mu) * g / (1 - product) + following * m / (1 - product * following)
    return w - lr * direction / (np.sqrt(v / (1 - betas[1] ** t)) + eps)


def by_radam(
    w, g, state, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, decoupled_weight_decay=False, maximize=False
):
    w, g, m, v, t = _averages(w, g, state, lr, betas, weight_decay, maximize, decoupled_weight_decay)
    limit = 2 / (1 - betas[1]) - 1
    rho = limit - 2 * t * betas[1] ** t / (1 - betas[1] ** t)
    step = lr * m / (1 - betas[0] ** t)
    if rho > 5:
        rectification = np.sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho))
        step = step * rectification * np.sqrt(1 - betas[1] ** t) / (np.sqrt(v) + eps)
    return w - step


def by_adamax(w, g, state, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, maximize=False):
    w, g, m, _, t = _averages(w, g, state, lr, betas, weight_decay, maximize, False)
    u = state["u"] = np.maximum(betas[1] * state.get("u", 0), np.abs(g) + eps)
    return w - lr * m / (1 - betas[0] ** t) / u


def by_adadelta(w, g, state, lr, rho=0.9, eps=1e-6, **decay):
    g = _decayed(w, g, **decay)
    v = state["v"] = rho * state.get("v", 0) + (1 - rho) * g * g
    delta = np.sqrt(state.get("u", 0) + eps) / np.sqrt(v + eps) * g
    state["u"] = rho * state.get("u", 0) + (1 - rho) * delta * delta
    return w - lr * delta


def by_adagrad(w, g, state, lr, lr_decay=0, initial_accumulator_value=0, eps=1e-10, **decay):
    g = _decayed(w, g, **decay)
    t = state["t"] = state.get("t", 0) + 1
    s = state["s"] = state.get("s", initial_accumulator_value) + g * g
    return w - lr / (1 + (t - 1) * lr_decay) * g / (np.sqrt(s) + eps)


def by_rmsprop(w, g, state, lr, alpha=0.99, eps=1e-8, momentum=0, centered=False, **decay):
    g = _decayed(w, g, **decay)
    v = state["v"] = alpha * state.get("v", 0) + (1 - alpha) * g * g
    if centered:
        m = state["m"] = alpha * state.get("m", 0) + (1 - alpha) * g
        v = v - m * m
    step = state["b"] = momentum * state.get("b", 0) + g / (np.sqrt(v) + eps)
    return w - lr * step


def by_rprop(w, g, state, lr, etas=(0.5, 1.2), step_sizes=(1e-6, 50), maximize=False):
    g = _decayed(w, g, maximize=maximize)
    agreement = np.sign(g * state.get("previous", 0))
    factor = np.where(agreement > 0, etas[1], np.where(agreement < 0, etas[0], 1))
    size = state["size"] = np.clip(state.get("size", lr) * factor, *step_sizes)
    g = state["previous"] = np.where(agreement < 0, 0, g)
    return w - np.sign(g) * size


def by_asgd(w, g, state, lr, lambd=1e-4, alpha=0.75, t0=1e6, **decay):
    g = _decayed(w, g, **decay)
    t = state["t"] = state.get("t", 0) + 1
    eta, mu = (float(np.float32(state.get(name, first))) for name, first in (("eta", lr), ("mu", 1)))
    w = w * (1 - lambd * eta) - eta * g
    state["ax"] = state.get("ax", 0) + mu * (w - state.get("ax", 0))
    state["eta"], state["mu"] = lr / (1 + lambd * lr * t) ** alpha, 1 / max(1, t - t0)
    return w


def by_lion(w, g, state, lr, betas=(0.9, 0.99), weight_decay=0, maximize=False):
    g = _decayed(w, g, maximize=maximize)
    m = state.get("m", 0)
    state["m"] = betas[1] * m + (1 - betas[1]) * g
    return w * (1 - lr * weight_decay) - lr * np.sign(betas[0] * m + (1 - betas[0]) * g)


def by_muon(
    w,
    g,
    state,
    lr,
    weight_decay=0.1,
    momentum=0.95,
    nesterov=True,
    ns_coefficients=(3.4445, -4.7750, 2.0315),
    eps=1e-7,
    ns_steps=5,
    adjust_lr_fn=None,
):
    b = state["b"] = momentum * state.get("b", 0) + (1 - momentum) * g
    direction = (1 - momentum) * g + momentum * b if nesterov else b
    u, s, vh = np.linalg.svd(direction, full_matrices=False)
    s = s / max(np.linalg.norm(direction), eps)
    for _ in range(ns_steps):
        s = ns_coefficients[0] * s + ns_coefficients[1] * s**3 + ns_coefficients[2] * s**5
    n, m = w.shape
    ratio = 0.2 * np.sqrt(max(n, m)) if adjust_lr_fn == "match_rms_adamw" else np.sqrt(max(1, n / m))
    return w * (1 - lr * weight_decay) - lr * ratio * (u * s) @ vh


def by_adafactor(w, g, state, lr, beta2_decay=-0.8, eps=(None, 1e-3), d=1.0, weight_decay=0.0, maximize=False):
    eps1 = np.finfo(w.dtype).eps if eps[0] is None else eps[0]
    t = state["t"] = state.get("t", 0) + 1
    share = t**beta2_decay
    rate = max(eps[1], np.sqrt(np.mean(w * w)) if w.size else 0) * min(lr, t**-0.5)
    if w.ndim > 1:
        row = state["row"] = (1 - share) * state.get("row", 0) + share * np.mean(g * g, -1, keepdims=True)
        column = state["column"] = (1 - share) * state.get("column", 0) + share * np.mean(g * g, -2, keepdims=True)
        v = row * column / np.maximum(np.mean(row, -2, keepdims=True), eps1)
    else:
        v = state["v"] = (1 - share) * state.get("v", 0) + share * g * g
    u = g / np.sqrt(np.maximum(v, eps1 * eps1))
    u = u / max(1, np.sqrt(np.sum(u * u)) / (np.sqrt(max(u.size, 1)) * d))
    return w * (1 - lr * weight_decay) - (-rate if maximize else rate) * u


FORMULAS = {name[3:]: function for name, function in list(globals().items()) if name.startswith("by_")}
