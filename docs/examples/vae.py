"""A variational autoencoder learns to write digits (Kingma and Welling 2014, arXiv:1312.6114).

    python docs/examples/vae.py [--epochs N] [--out DIR] [--resume] [--quick]

What it maximises is the evidence lower bound (ELBO) of the log-likelihood of a picture x, in nats:

    ELBO(x) = E[log p(x|z)] - KL(q(z|x) || p(z)),   q(z|x) = N(mu(x), sigma(x)^2),   p(z) = N(0, 1)

Pixels are drawn black or white with their grey as the probability, anew for each batch (dynamic binarisation; those of
the held-out digits once), so that log p(x|z) is the logarithm of a probability.

Reached: an ELBO of -113.3 nats on 1,000 held-out digits after 50 epochs, in 18 s on two cores with
neighbours. An epoch by ``step.epoch`` took as long as one uncaptured (1.03 times as fast, median of 8
alternating rounds): nearly all of the time goes into the matrix products.
"""

import argparse
import signal
import time
from pathlib import Path

import tapegrad as tg
from tapegrad import nn, optim
from tapegrad.nn import functional as F
from tapegrad.utils.data import DataLoader

parser = argparse.ArgumentParser(description="A variational autoencoder on handwritten digits")
parser.add_argument("--epochs", type=int, default=50)
parser.add_argument("--batch-size", type=int, default=100)
parser.add_argument("--lr", type=float, default=2e-3)
parser.add_argument("--latent", type=int, default=20, help="numbers that a digit is put into")
parser.add_argument("--hidden", type=int, default=400)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--out", type=Path, default=Path("runs/vae"), help="where checkpoint and pictures go")
parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
parser.add_argument("--eager", action="store_true", help="run every step in Python, without tg.compile")


class VAE(nn.Module):
    """Encoder and decoder of two layers each."""

    def __init__(self, hidden: int, latent: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(784, hidden), nn.GELU(), nn.Dropout(0.2), nn.Linear(hidden, hidden), nn.GELU()
        )
        self.mu = nn.Linear(hidden, latent)
        self.logvar = nn.Linear(hidden, latent)
        self.decoder = nn.Sequential(
            nn.Linear(latent, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, 784)
        )

    def forward(self, x: tg.Tensor) -> tuple[tg.Tensor, tg.Tensor, tg.Tensor]:
        """Logits of the pixels [n, 784], and mean and log-variance of q(z|x) [n, latent], of pictures [n, 784]."""
        h = self.encoder(x)
        mu, logvar = self.mu(h), self.logvar(h)
        z = mu + tg.randn_like(mu) * tg.exp(0.5 * logvar)
        return self.decoder(z), mu, logvar


def negative_elbo(net: VAE, x: tg.Tensor) -> tuple[tg.Tensor, tg.Tensor]:
    """Return -E[log p(x|z)], by one draw of z, and KL(q(z|x) || p(z)): means over the pictures, in nats."""
    logits, mu, logvar = net(x)
    reconstruction = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    kl = -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum()
    return reconstruction / len(x), kl / len(x)


def evaluate(net: VAE, x: tg.Tensor) -> float:
    """Return the mean ELBO of pictures."""
    net.eval()
    with tg.no_grad():
        reconstruction, kl = negative_elbo(net, x)
    net.train()
    return -(reconstruction + kl).item()


def draw(path: Path, net: VAE, digits: tg.Tensor, elbos: list[float]) -> None:
    """Draw held-out digits above what the network makes of them, new digits, and the curve."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with tg.no_grad():
        net.eval()
        again = tg.sigmoid(net.decoder(net.mu(net.encoder(digits))))
        new = tg.sigmoid(net.decoder(tg.randn(80, net.mu.out_features)))
    rows = tg.cat([digits.reshape(2, 10, 784), again.reshape(2, 10, 784)], dim=1).reshape(4, 10, 28, 28)
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(10, 3.1), layout="constrained")
    left.imshow(sheet(rows), cmap="gray_r")
    left.set_title("held-out digits, and below each its reconstruction", fontsize=9)
    middle.imshow(sheet(new.reshape(8, 10, 28, 28)), cmap="gray_r")
    middle.set_title("drawn from the prior", fontsize=9)
    right.plot(range(1, len(elbos) + 1), elbos)
    right.set(xlabel="epoch", ylabel="held-out ELBO (nats)", ylim=(min(elbos[len(elbos) // 10 :]), max(elbos) + 3))
    for axes in (left, middle):
        axes.axis("off")
    figure.savefig(path, dpi=80)


def sheet(pictures: tg.Tensor) -> object:
    """Return pictures [rows, columns, height, width] side by side, as a NumPy array."""
    rows, columns, height, width = pictures.shape
    return pictures.permute(0, 2, 1, 3).reshape(rows * height, columns * width).numpy()


def main() -> None:
    """Train, save every few epochs, draw."""
    args = parser.parse_args()
    tg.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    checkpoint = args.out / "checkpoint.safetensors"
    images, held_out = (tg.datasets.digits(split)[0].flatten(1) for split in ("train", "test"))
    grey = held_out[::50]
    held_out = tg.bernoulli(held_out)
    if args.quick:
        args.epochs, args.hidden, images, held_out = 2, 32, images[::8].contiguous(), held_out[::10].contiguous()
    net = VAE(args.hidden, args.latent)
    optimizer = optim.AdamW(net.parameters(), lr=args.lr, weight_decay=0.02)
    scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs)
    parts = {"net": net, "optimizer": optimizer, "scheduler": scheduler}
    epoch, elbos, seconds = 0, [], 0.0
    if args.resume and checkpoint.exists():
        state = tg.load(checkpoint)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        tg.set_rng_state(state["rng"])
        epoch, elbos, seconds = state["progress"]

    @tg.compile
    def step(grey: tg.Tensor) -> tuple[tg.Tensor, tg.Tensor]:
        x = tg.bernoulli(grey)
        optimizer.zero_grad()
        reconstruction, kl = negative_elbo(net, x)
        (reconstruction + kl).backward()
        optimizer.step()
        return reconstruction, kl

    def eager_epoch() -> tuple[tg.Tensor, tg.Tensor]:
        rows = [step.__wrapped__(x) for x in DataLoader(images, batch_size=args.batch_size, shuffle=True)]
        return tuple(tg.stack([part.detach() for part in column]) for column in zip(*rows, strict=True))

    interrupted = []
    signal.signal(signal.SIGINT, lambda *_: interrupted.append(True) if not interrupted else exit(130))

    while epoch < args.epochs and not interrupted:
        start = time.perf_counter()
        if args.eager:
            reconstruction, kl = eager_epoch()
        else:
            reconstruction, kl = step.epoch(images, batch_size=args.batch_size, shuffle=True)
        scheduler.step()
        epoch += 1
        seconds += time.perf_counter() - start
        elbos.append(evaluate(net, held_out))
        print(
            f"epoch {epoch}/{args.epochs}  reconstruction {reconstruction.mean().item():.2f}  "
            f"KL {kl.mean().item():.2f}  held-out ELBO {elbos[-1]:.2f} nats  {seconds:.1f} s"
        )
        if interrupted or epoch % 10 == 0 or epoch == args.epochs:
            state = {name: part.state_dict() for name, part in parts.items()}
            tg.save({**state, "rng": tg.get_rng_state(), "progress": [epoch, elbos, seconds]}, checkpoint)
    if epoch < args.epochs:
        print(f"interrupted after epoch {epoch}: go on with --resume")
        return
    draw(args.out / "vae.png", net, grey, elbos)
    print(f"held-out ELBO {elbos[-1]:.2f} nats a digit after {seconds:.0f} s; {args.out / 'vae.png'}")


if __name__ == "__main__":
    main()
