"""An LSTM says which of two kinds a sequence is of; sequences of different lengths are packed."""

import numpy as np
import torch
from torch import nn, optim
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence
from torch.utils.data import DataLoader, Dataset


class Waves(Dataset):
    def __init__(self, count, rng):
        self.items = []
        for k in range(count):
            length = int(rng.integers(5, 12))
            t = np.arange(length) + rng.uniform(0, 6)
            wave = np.sin(t) if k % 2 else np.sign(np.sin(t))
            noise = rng.normal(size=(length, 2)) * 0.1
            self.items.append((wave[:, None] + noise, k % 2))

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        sequence, label = self.items[index]
        return torch.tensor(sequence, dtype=torch.float64), label


def collate(batch):
    sequences, labels = zip(*batch)  # noqa: B905
    lengths = torch.tensor([len(s) for s in sequences])
    return pad_sequence(sequences, batch_first=True), lengths, torch.tensor(labels)


class Classifier(nn.Module):
    def __init__(self, hidden=8):
        super().__init__()
        self.lstm = nn.LSTM(2, hidden, num_layers=2, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(2 * hidden, 2)

    def forward(self, x, lengths):
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        _, (h, _) = self.lstm(packed)
        return self.fc(torch.cat([h[-2], h[-1]], dim=1))


rng = np.random.default_rng(5)
model = Classifier().double()
with torch.no_grad():
    for p in model.parameters():
        p.copy_(torch.from_numpy(rng.uniform(-0.35, 0.35, tuple(p.shape))))
loader = DataLoader(Waves(48, rng), batch_size=12, collate_fn=collate)
optimizer = optim.RMSprop(model.parameters(), lr=5e-3)
criterion = nn.CrossEntropyLoss()
for epoch in range(4):
    total, correct = 0.0, 0
    for x, lengths, labels in loader:
        optimizer.zero_grad()
        scores = model(x, lengths)
        loss = criterion(scores, labels)
        loss.backward()
        nn.utils.clip_grad_value_(model.parameters(), 0.5)
        optimizer.step()
        total += loss.item()
        correct += (scores.max(1)[1] == labels).sum().item()
        print(f"  {loss.item():.15g}")
    print(f"epoch {epoch} {total / len(loader):.15g} {correct}")
