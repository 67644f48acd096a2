"""A transformer writes Python documentation, character by character: half a million characters of help() to learn from.

    python docs/examples/char_transformer.py [--steps N] [--out DIR] [--resume] [--quick]

Layer norms before attention and perceptron as in GPT-2, learned places, windows of 128 characters. Held out is the
text's last tenth, without those of its lines that also stand in the rest (the topics of help() share passages).

Reached: 1.84 bits a character held out, after 1500 steps: 791 s on a very busy two-core machine, where a step by itself
took 97 ms, so about 150 s on a quiet one. tg.compile: 1.03 times as fast, since the kernels take almost all of a step.
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

parser = argparse.ArgumentParser(description="A character transformer on Python's help texts")
parser.add_argument("--steps", type=int, default=1500)
parser.add_argument("--batch", type=int, default=16, help="windows a step")
parser.add_argument("--length", type=int, default=128, help="of a window, in characters")
parser.add_argument("--lr", type=float, default=3e-3, help="the highest learning rate of the cycle")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument(
    "--out", type=Path, default=Path("runs/char_transformer"), help="where checkpoint, sample and picture go"
)
parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
parser.add_argument("--eager", action="store_true", help="run every step in Python, without tg.compile")


class Block(nn.Module):
    """Attention and a perceptron, each behind a layer norm and added to what went in."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def attend(self, x: tg.Tensor) -> tg.Tensor:
        """Let every character [n, length, width] look at those before it."""
        n, length, width = x.shape
        q, k, v = self.qkv(x).view(n, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(n, length, width))

    def forward(self, x: tg.Tensor) -> tg.Tensor:
        """Return [n, length, width]."""
        x = x + self.dropout(self.attend(self.norm1(x)))
        return x + self.dropout(self.mlp(self.norm2(x)))


class CharTransformer(nn.Module):
    """Scores of the next character."""

    def __init__(self, characters: int, length: int, width: int = 128, heads: int = 4, blocks: int = 3) -> None:
        super().__init__()
        self.embedding, self.places = nn.Embedding(characters, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*[Block(width, heads, 0.1) for _ in range(blocks)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, characters)
        self.apply(self.init)

    @staticmethod
    def init(module: nn.Module) -> None:
        """Initialise as GPT-2 does."""
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)

    def forward(self, codes: tg.Tensor) -> tg.Tensor:
        """Return logits [n, length, characters] of codes [n, length]."""
        x = self.embedding(codes) + self.places.weight[: codes.shape[1]]
        return self.head(self.norm(self.blocks(x)))


def load(held_out: float = 0.1) -> tuple[tg.datasets.Text, tg.Tensor, tg.Tensor]:
    """Return the text, the codes to learn from and the codes held out."""
    text = tg.datasets.text()
    cut = int(len(text.text) * (1 - held_out))
    known = set(text.text[:cut].splitlines())
    fresh = [line for line in text.text[cut:].splitlines() if line.strip() and line not in known]
    return text, text.codes[:cut], text.encode("\n".join(fresh))


def evaluate(net: CharTransformer, codes: tg.Tensor, length: int) -> float:
    """Return the bits that a character of codes [n] costs: of every window's second half, read with the first."""
    net.eval()
    half = length // 2
    windows = codes.unfold(0, length + 1, half)
    nats = []
    with tg.no_grad():
        for part in windows.split(32):
            logits = net(part[:, :-1].contiguous())[:, half:]
            nats.append(F.cross_entropy(logits.flatten(0, 1), part[:, half + 1 :].flatten(), reduction="sum").item())
    net.train()
    return sum(nats) / (len(windows) * half) / math.log(2)


def sample(net: CharTransformer, text: tg.datasets.Text, codes: list[int], count: int, temperature: float = 0.7) -> str:
    """Return ``count`` characters that the network puts behind the codes of a context."""
    net.eval()
    codes, length = list(codes), len(codes)
    with tg.no_grad():
        for _ in range(count):
            logits = net(tg.tensor([codes[-length:]]))[0, -1]
            codes.append(tg.multinomial((logits / temperature).softmax(0), 1).item())
    net.train()
    return text.decode(codes[length:])


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
        args.steps, args.batch, args.length = 4, 2, 16
    tg.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    checkpoint = args.out / "checkpoint.safetensors"
    text, train, held = load()
    if args.quick:
        held = held[:200]
    net = CharTransformer(len(text.characters), args.length, **({"width": 32, "blocks": 1} if args.quick else {}))
    optimizer = optim.AdamW(net.parameters(), lr=args.lr, weight_decay=0.05)
    scheduler = optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=args.steps, pct_start=0.1)
    parts = {"net": net, "optimizer": optimizer, "scheduler": scheduler}
    losses, scores, seconds = [], [], 0.0
    if args.resume and checkpoint.exists():
        state = tg.load(checkpoint)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        tg.set_rng_state(state["rng"])
        losses, scores, seconds = state["progress"]

    def save() -> None:
        state = {name: part.state_dict() for name, part in parts.items()}
        tg.save({**state, "rng": tg.get_rng_state(), "progress": [losses, scores, seconds]}, checkpoint)

    places = tg.arange(args.length + 1)

    def step() -> tg.Tensor:
        starts = tg.randint(0, len(train) - args.length, (args.batch, 1))
        codes = train[starts + places]
        optimizer.zero_grad()
        loss = F.cross_entropy(net(codes[:, :-1]).flatten(0, 1), codes[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        return loss

    train_step = step if args.eager else tg.compile(step)
    interrupted = []
    signal.signal(signal.SIGINT, lambda *_: interrupted.append(True) if not interrupted else exit(130))
    start = time.perf_counter() - seconds
    bar = tqdm(total=args.steps, initial=len(losses), disable=None)
    while len(losses) < args.steps and not interrupted:
        losses.append(train_step().item())
        seconds = time.perf_counter() - start
        bar.update()
        if len(losses) % max(1, args.steps // 10) == 0:
            scores.append([len(losses), evaluate(net, held, args.length)])
            seconds = time.perf_counter() - start
            bits = losses[-1] / math.log(2)
            tqdm.write(f"step {len(losses):5}  bits {bits:.3f}  held out {scores[-1][1]:.3f}  {seconds:.0f} s")
            save()
    bar.close()
    if interrupted:
        save()
        print(f"interrupted after step {len(losses)}: go on with --resume")
        return
    context = held[: args.length].tolist()
    written = f"{text.decode(context)}|{sample(net, text, context, 20 if args.quick else 600)}"
    (args.out / "sample.txt").write_text(written)
    draw(args.out / "bits.png", losses, scores)
    print(f"{written}\n\nheld out {evaluate(net, held, args.length):.3f} bits per character after {seconds:.0f} s")
    print(args.out / "sample.txt", args.out / "bits.png")


if __name__ == "__main__":
    main()
