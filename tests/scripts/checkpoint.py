"""A module of one's own, with a buffer and a residual block, saved in the middle and loaded into another."""

import os
import tempfile

import numpy as np
import torch
from torch import nn, optim
from torch.nn import functional as F

torch.set_default_dtype(torch.float64)


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(2)])
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x):
        y = self.norm(x)
        for layer in self.layers:
            y = F.gelu(layer(y))
        return x + self.scale * y


class Model(nn.Module):
    def __init__(self, inputs=6, width=12, classes=3):
        super().__init__()
        self.embed = nn.Linear(inputs, width, bias=False)
        self.blocks = nn.Sequential(Residual(width), Residual(width))
        self.norm = nn.BatchNorm1d(width)
        self.head = nn.Linear(width, classes)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        if self.training:
            self.seen += len(x)
        return self.head(self.norm(self.blocks(self.embed(x))))


def initialise(model, rng):
    for name, p in model.named_parameters():
        if p.dim() > 1:
            p.data.copy_(torch.as_tensor(rng.normal(size=tuple(p.shape)) / np.sqrt(p.shape[1])))
        elif name.endswith("bias"):
            nn.init.zeros_(p)


def steps(model, optimizer, x, y, count):
    model.train()
    for _ in range(count):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y, label_smoothing=0.1)
        loss.backward()
        optimizer.step()
        print(f"{model.seen.item()} {loss.item():.15g}")


rng = np.random.default_rng(4)
x = torch.as_tensor(rng.normal(size=(40, 6)))
y = torch.as_tensor(rng.integers(0, 3, 40))
model = Model()
initialise(model, rng)
optimizer = optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
print(sum(p.numel() for p in model.parameters() if p.requires_grad), sorted(model.state_dict()))
steps(model, optimizer, x, y, 5)

with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "model.pt")
    torch.save({"epoch": 5, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
    checkpoint = torch.load(path)

other = Model()
missing, unexpected = other.load_state_dict(checkpoint["model"])
print(missing, unexpected, checkpoint["epoch"])
other_optimizer = optim.AdamW(other.parameters(), lr=1e-2, weight_decay=0.1)
other_optimizer.load_state_dict(checkpoint["optimizer"])
steps(other, other_optimizer, x, y, 3)
steps(model, optimizer, x, y, 3)
for p, q in zip(model.parameters(), other.parameters()):  # noqa: B905
    assert torch.equal(p, q)

state = other.state_dict()
state.pop("head.bias")
state["tail"] = torch.zeros(2)
result = other.load_state_dict(state, strict=False)
print(result.missing_keys, result.unexpected_keys)
other.eval()
with torch.no_grad():
    accuracy = (other(x).argmax(dim=1) == y).to(torch.float64).mean()
print(f"accuracy {accuracy.item():.6f}")
