"""Models of many kinds of layers, trained captured and uncaptured: the same losses and states to the bit."""

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import nn, optim
from tapegrad.runtime.machine import machine

F = nn.functional


class LastOf(nn.Module):
    """A recurrent layer's last output."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0][:, -1]


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)

    def forward(self, x):
        return self.layer(self.first(x)).mean(1)


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, 8)

    def forward(self, x):
        return self.table((x[..., 0].abs() * 4).long().clamp(0, 9)).mean(1)


def images(*layers):
    return nn.Sequential(nn.Unflatten(1, (1, 8)), *layers, nn.Flatten())


MODELS = {
    "convolution": lambda: images(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, bias=False)
    ),
    "transposed": lambda: images(
        nn.Conv2d(1, 4, 2, stride=2), nn.LeakyReLU(0.2), nn.ConvTranspose2d(4, 1, 2, stride=2)
    ),
    "pooling": lambda: images(nn.Conv2d(1, 8, 3), nn.GELU(), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1)),
    "norms": lambda: images(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.SiLU(), nn.InstanceNorm2d(4), nn.Dropout2d(0.2)),
    "upsampling": lambda: images(nn.Conv2d(1, 2, 3), nn.Upsample(scale_factor=2), nn.AvgPool2d(3)),
    "layer norm": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(48, 16), nn.LayerNorm(16), nn.Softplus(), nn.RMSNorm(16)
    ),
    "lstm": lambda: LastOf(nn.LSTM(6, 7, num_layers=2, batch_first=True)),
    "gru": lambda: LastOf(nn.GRU(6, 7, batch_first=True, bidirectional=True)),
    "rnn": lambda: LastOf(nn.RNN(6, 7, batch_first=True)),
    "attention": Attention,
    "embedding": Words,
}


def build(kind):
    tg.manual_seed(2)
    body = MODELS[kind]()
    width = body(tg.ones(2, 8, 6)).shape[-1]
    model = nn.Sequential(body, nn.Linear(width, 3))
    optimizer = optim.AdamW(model.parameters(), lr=1e-2)

    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return model, step


@pytest.mark.parametrize("kind", MODELS)
def test_training_is_the_same_to_the_bit(kind):
    rng = np.random.default_rng(1)
    batches = [
        (tg.from_numpy(rng.normal(size=(4, 8, 6)).astype(np.float32)), tg.from_numpy(rng.integers(0, 3, 4)))
        for _ in range(6)
    ]
    plain, step = build(kind)
    tg.manual_seed(3)
    expected = [step(x, y).item() for x, y in batches]
    model, step = build(kind)
    captured = tg.compile(step)
    tg.manual_seed(3)
    assert [captured(x, y).item() for x, y in batches] == expected
    assert captured.variants[0].program is not None
    state = plain.state_dict()
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), state[name].numpy(), err_msg=name)


def test_a_replay_leaves_the_rows_of_tensors_alone_that_were_made_after_the_capture():
    convolution = nn.Conv2d(3, 4, 3)

    @tg.compile
    def step(x):
        convolution.zero_grad()
        convolution(x).sum().backward()

    x = tg.rand(2, 3, 8, 8)
    for _ in range(3):
        step(x)
    made = [tg.full((600,), float(k)) for k in range(300)]
    refs = machine.table("storages")["refs"].copy()
    for _ in range(3):
        step(x)
    np.testing.assert_array_equal(machine.table("storages")["refs"], refs)
    assert all((tensor == float(k)).all() for k, tensor in enumerate(made))
