"""An LSTM writes Python documentation, character by character: half a million characters of help() to learn from.

    python docs/examples/char_lstm.py [--steps N] [--out DIR] [--resume] [--quick]

The text is cut into parallel streams; each batch goes on where the last one ended, with the states of then. Held out
is the text's last tenth, without those of its lines that also stand in the rest (the topics of help() share passages).

Reached: 1.78 bits a character held out, after 1500 steps in 178 s on a busy two-core machine (about 100 s on a quiet
one). tg.compile: the same numbers, no faster here, since the kernels of a step take almost all of its 65 ms.
"""

import argparse
import math
import signal
import time
from pathlib import Path

from tqdm import tqdm

import tapegrad as tg
from tapegrad import nn, optim
from tapegrad.nn import functional as F

parser = argparse.ArgumentParser(description="A character LSTM on Python's help texts")
parser.add_argument("--steps", type=int, default=1500)
parser.add_argument("--streams", type=int, default=32, help="that are read at the same time")
parser.add_argument("--length", type=int, default=64, help="of what is read in a step, in characters")
parser.add_argument("--lr", type=float, default=6e-3, help="the highest learning rate of the cycle")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--out", type=Path, default=Path("runs/char_lstm"), help="where checkpoint, sample and picture go")
parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
parser.add_argument("--eager", action="store_true", help="run every step in Python, without tg.compile")


class CharLSTM(nn.Module):
    """Scores of the next character."""

    def __init__(self, characters: int, width: int = 256) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, 64)
        self.lstm = nn.LSTM(64, width, batch_first=True)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(width, characters)

    def forward(self, codes: tg.Tensor, h: tg.Tensor, c: tg.Tensor) -> tuple[tg.Tensor, tg.Tensor, tg.Tensor]:
        """Return logits [n, length, characters] of codes [n, length], and the states [1, n, width] after them."""
        output, (h, c) = self.lstm(self.embedding(codes), (h, c))
        return self.head(self.dropout(output)), h, c

    def start(self, n: int) -> tuple[tg.Tensor, tg.Tensor]:
        """Return the states before anything is read."""
        return tg.zeros(1, n, self.lstm.hidden_size), tg.zeros(1, n, self.lstm.hidden_size)


def load(held_out: float = 0.1) -> tuple[tg.datasets.Text, tg.Tensor, tg.Tensor]:
    """Return the text, the codes to learn from and the codes held out."""
    text = tg.datasets.text()
    cut = int(len(text.text) * (1 - held_out))
    known = set(text.text[:cut].splitlines())
    fresh = [line for line in text.text[cut:].splitlines() if line.strip() and line not in known]
    return text, text.codes[:cut], text.encode("\n".join(fresh))


def streams(codes: tg.Tensor, n: int) -> tg.Tensor:
    """Cut codes into n streams of one length, [n, length]."""
    return codes[: len(codes) // n * n].reshape(n, -1)


def evaluate(net: CharLSTM, codes: tg.Tensor, length: int = 100) -> float:
    """Return the bits that a character of codes [n, length] costs."""
    net.eval()
    nats, h, c = 0.0, *net.start(len(codes))
    with tg.no_grad():
        for k in range(0, codes.shape[1] - 1, length):
            x, y = codes[:, k : k + length], codes[:, k + 1 : k + 1 + length]
            logits, h, c = net(x[:, : y.shape[1]], h, c)
            nats += F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum").item()
    net.train()
    return nats / (codes.shape[0] * (codes.shape[1] - 1)) / math.log(2)


def sample(net: CharLSTM, text: tg.datasets.Text, prompt: str, count: int, temperature: float = 0.7) -> str:
    """Return the prompt and ``count`` characters that the network puts behind it."""
    net.eval()

    def read(codes: tg.Tensor, h: tg.Tensor, c: tg.Tensor) -> tuple[tg.Tensor, tg.Tensor, tg.Tensor]:
        logits, h, c = net(codes, h, c)
        chosen = tg.multinomial((logits[:, -1] / temperature).softmax(1), 1)
        return chosen, h, c

    with tg.no_grad():
        code, h, c = read(text.encode(prompt).unsqueeze(0), *net.start(1))
        codes = [code.item()]
        for _ in range(count - 1):
            code, h, c = read(code, h, c)
            codes.append(code.item())
    net.train()
    return prompt + text.decode(codes)


def draw(path: Path, losses: list[float], scores: list[list[float]]) -> None:
    """Draw the bits per character on the way."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    axes.plot([loss / math.log(2) for loss in losses], lw=0.5, label="training")
    if scores:
        axes.plot(*zip(*scores, strict=True), "o-", label="held out")
    axes.set(xlabel="step", ylabel="bits per character", ylim=(1, 5))
    axes.legend()
    figure.savefig(path, dpi=80)


def main() -> None:
    """Train, save now and then, write a sample, draw."""
    args = parser.parse_args()
    if args.quick:
        args.steps, args.streams, args.length = 4, 4, 16
    tg.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    checkpoint = args.out / "checkpoint.safetensors"
    text, train, held = load()
    train, held = streams(train, args.streams), streams(held, 16)
    if args.quick:
        held = held[:2, :100]
    net = CharLSTM(len(text.characters), 32 if args.quick else 256)
    optimizer = optim.Adam(net.parameters(), lr=args.lr)
    scheduler = optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=args.steps, pct_start=0.1)
    parts = {"net": net, "optimizer": optimizer, "scheduler": scheduler}
    (h, c), place, losses, scores, seconds = net.start(args.streams), 0, [], [], 0.0
    if args.resume and checkpoint.exists():
        state = tg.load(checkpoint)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        tg.set_rng_state(state["rng"])
        h, c, place, losses, scores, seconds = state["progress"]

    def save() -> None:
        state = {name: part.state_dict() for name, part in parts.items()}
        tg.save({**state, "rng": tg.get_rng_state(), "progress": [h, c, place, losses, scores, seconds]}, checkpoint)

    def step(x: tg.Tensor, y: tg.Tensor, h: tg.Tensor, c: tg.Tensor) -> tuple[tg.Tensor, tg.Tensor, tg.Tensor]:
        optimizer.zero_grad()
        logits, h, c = net(x, h, c)
        loss = F.cross_entropy(logits.flatten(0, 1), y.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        return loss.detach(), h.detach(), c.detach()

    train_step = step if args.eager else tg.compile(step)
    interrupted = []
    signal.signal(signal.SIGINT, lambda *_: interrupted.append(True) if not interrupted else exit(130))
    start = time.perf_counter() - seconds
    bar = tqdm(total=args.steps, initial=len(losses), disable=None)
    while len(losses) < args.steps and not interrupted:
        if place + args.length >= train.shape[1]:
            place, (h, c) = 0, net.start(args.streams)
        x = train[:, place : place + args.length].contiguous()
        y = train[:, place + 1 : place + 1 + args.length].contiguous()
        loss, h, c = train_step(x, y, h, c)
        losses.append(loss.item())
        place += args.length
        seconds = time.perf_counter() - start
        bar.update()
        if len(losses) % max(1, args.steps // 10) == 0:
            scores.append([len(losses), evaluate(net, held)])
            seconds = time.perf_counter() - start
            bits = losses[-1] / math.log(2)
            tqdm.write(f"step {len(losses):5}  bits {bits:.3f}  held out {scores[-1][1]:.3f}  {seconds:.0f} s")
            save()
    bar.close()
    if interrupted:
        save()
        print(f"interrupted after step {len(losses)}: go on with --resume")
        return
    written = sample(net, text, "The ", 20 if args.quick else 600)
    (args.out / "sample.txt").write_text(written)
    draw(args.out / "bits.png", losses, scores)
    print(f"{written}\n\nheld out {evaluate(net, held):.3f} bits per character after {seconds:.0f} s")
    print(args.out / "sample.txt", args.out / "bits.png")


if __name__ == "__main__":
    main()
