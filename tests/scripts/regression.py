"""A regression with a learning rate schedule and clipped gradients."""

import numpy as np
import torch
from torch import nn, optim

torch.set_default_dtype(torch.float64)
rng = np.random.default_rng(3)
X = torch.tensor(rng.uniform(-2, 2, (128, 3)))
y = torch.sin(X).sum(dim=1, keepdim=True) + 0.1 * torch.tensor(rng.normal(size=(128, 1)))

model = nn.Sequential(nn.Linear(3, 24), nn.Tanh(), nn.Linear(24, 24), nn.SiLU(), nn.Linear(24, 1))
for name, param in model.named_parameters():
    param.data = torch.tensor(rng.normal(size=tuple(param.shape)) * (0.3 if "weight" in name else 0.01))
criterion = nn.MSELoss()
optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)
scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20, eta_min=1e-3)

for epoch in range(20):
    permutation = torch.tensor(rng.permutation(len(X)))
    running = 0.0
    for i in range(0, len(X), 32):
        indices = permutation[i : i + 32]
        optimizer.zero_grad(set_to_none=True)
        loss = criterion(model(X[indices]), y[indices])
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=0.5)
        optimizer.step()
        running += loss.item() * len(indices)
    scheduler.step()
    print(f"{epoch} {running / len(X):.15g} {norm.item():.15g} {scheduler.get_last_lr()[0]:.15g}")

model.eval()
with torch.inference_mode():
    print(f"final {criterion(model(X), y).item():.15g}")
