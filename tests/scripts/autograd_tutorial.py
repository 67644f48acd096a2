"""A cubic fitted to a sine: by hand, by autograd with updates under no_grad, and with a Function of one's own."""

import math

import torch

dtype = torch.float64
device = torch.device("cpu")
x = torch.linspace(-math.pi, math.pi, 200, device=device, dtype=dtype)
y = torch.sin(x)


class LegendrePolynomial3(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input):
        ctx.save_for_backward(input)
        return 0.5 * (5 * input**3 - 3 * input)

    @staticmethod
    def backward(ctx, grad_output):
        (input,) = ctx.saved_tensors
        return grad_output * 1.5 * (5 * input**2 - 1)


# by autograd
a = torch.full((), 0.1, dtype=dtype, requires_grad=True)
b = torch.full((), -0.2, dtype=dtype, requires_grad=True)
c = torch.full((), 0.05, dtype=dtype, requires_grad=True)
d = torch.full((), 0.01, dtype=dtype, requires_grad=True)
learning_rate = 1e-6
for t in range(40):
    y_pred = a + b * x + c * x**2 + d * x**3
    loss = (y_pred - y).pow(2).sum()
    loss.backward()
    with torch.no_grad():
        a -= learning_rate * a.grad
        b -= learning_rate * b.grad
        c -= learning_rate * c.grad
        d -= learning_rate * d.grad
        a.grad = None
        b.grad = None
        c.grad.zero_()
        d.grad.zero_()
    print(t, repr(loss.item()))
print(f"y = {a.item():.12g} + {b.item():.12g} x + {c.item():.12g} x^2 + {d.item():.12g} x^3")

# with a Function
weights = [torch.tensor(value, dtype=dtype, requires_grad=True) for value in (0.0, -1.0, 0.0, 0.3)]
P3 = LegendrePolynomial3.apply
for t in range(20):
    a, b, c, d = weights
    loss = (a + b * P3(c + d * x) - y).pow(2).sum()
    grads = torch.autograd.grad(loss, weights)
    with torch.no_grad():
        for weight, grad in zip(weights, grads):  # noqa: B905
            weight -= 5e-6 * grad
    print(t, repr(loss.item()))

# second derivatives
z = torch.tensor([0.3, 0.7, 1.1], dtype=dtype, requires_grad=True)
(first,) = torch.autograd.grad((z**3).sin().sum(), z, create_graph=True)
first.sum().backward()
print(first.tolist(), z.grad.tolist())
