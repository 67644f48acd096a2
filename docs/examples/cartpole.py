"""A policy learns to balance a pole on a cart by advantage actor-critic, in many carts at once, physics in NumPy.

    python docs/examples/cartpole.py [--steps N] [--out DIR] [--resume] [--quick]

The physics is that of Barto, Sutton and Anderson 1983 (doi:10.1109/TSMC.1983.6313077) with the constants, bounds and
the limit of 500 steps of Gymnasium's CartPole-v1: one point a step until the pole leans by 12 degrees or the cart is
2.4 m away. Advantages are generalised ones (Schulman et al. 2016, arXiv:1506.02438). An episode that ends by the limit
goes on in the critic's estimate, since for the pole nothing has ended. Learning ends when
both the last 100 episodes and 100 new ones by the likelier action last 475 steps on average.

Reached: 500 of 500 steps in all of 100 new episodes, after 192 updates (790,000 steps of a cart) in 6 to 17 s on a busy
two-core machine; five of the seeds 0 to 5 got there within 400 updates. tg.compile: the same numbers, updates and
actions 1.2 times as fast.
"""

import argparse
import signal
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

import tapegrad as tg
from tapegrad import nn, optim
from tapegrad.nn import functional as F

parser = argparse.ArgumentParser(description="Advantage actor-critic on CartPole")
parser.add_argument("--steps", type=int, default=400, help="updates at most; ends when solved")
parser.add_argument("--carts", type=int, default=32)
parser.add_argument("--length", type=int, default=128, help="of what each cart does between two updates")
parser.add_argument("--lr", type=float, default=3e-3)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--out", type=Path, default=Path("runs/cartpole"), help="where checkpoint and picture go")
parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
parser.add_argument("--quick", action="store_true", help="a few updates, to see that it runs")
parser.add_argument("--eager", action="store_true", help="run every update in Python, without tg.compile")

DISCOUNT, TRACE = 0.99, 0.95
LIMIT = 500
SOLVED = 475.0


class Carts:
    """Many carts, each with a pole; a cart whose episode is over begins a new one.

    Attributes:
        state: [n, 4]: the cart's place (m) and speed, the pole's angle (radians) and angular speed.
        age: [n], the steps of the running episodes.
    """

    GRAVITY, CART, POLE, HALF_LENGTH, FORCE, SECONDS = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02

    def __init__(self, n: int, rng: np.random.Generator) -> None:
        self.rng = rng
        self.state = rng.uniform(-0.05, 0.05, (n, 4))
        self.age = np.zeros(n, np.int64)

    def step(self, right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Push every cart, right where ``right`` [n] is 1, else left.

        Returns:
            after: the states [n, 4] after the push, also of episodes that are over by it.
            fallen: [n], whether the pole fell or the cart left.
            over: [n], whether the episode ended, by that or by the limit.
        """
        _, speed, angle, turning = self.state.T
        mass = self.CART + self.POLE
        push = np.where(right == 1, self.FORCE, -self.FORCE)
        pull = (push + self.POLE * self.HALF_LENGTH * turning**2 * np.sin(angle)) / mass
        inertia = self.HALF_LENGTH * (4 / 3 - self.POLE * np.cos(angle) ** 2 / mass)
        angular = (self.GRAVITY * np.sin(angle) - np.cos(angle) * pull) / inertia
        linear = pull - self.POLE * self.HALF_LENGTH * angular * np.cos(angle) / mass
        after = self.state + self.SECONDS * np.stack([speed, linear, turning, angular], 1)
        self.age += 1
        fallen = (abs(after[:, 0]) > 2.4) | (abs(after[:, 2]) > np.deg2rad(12))
        over = fallen | (self.age >= LIMIT)
        self.state = np.where(over[:, None], self.rng.uniform(-0.05, 0.05, after.shape), after)
        self.age[over] = 0
        return after, fallen, over


class ActorCritic(nn.Module):
    """Scores of the two actions, and what the state is worth."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.actor = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 2))
        self.critic = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 1))

    def forward(self, states: tg.Tensor) -> tuple[tg.Tensor, tg.Tensor]:
        """Return logits [n, 2] and values [n] of states [n, 4]."""
        states = states * tg.tensor([0.5, 0.5, 5.0, 1.0])  # all of about the same size
        return self.actor(states), 100 * self.critic(states).squeeze(1)  # 100 is the most that it can be worth


def tensor(array: np.ndarray) -> tg.Tensor:
    """Return a float32 tensor of an array."""
    return tg.from_numpy(array.astype(np.float32))


class Worth:
    """Advantages and returns of what the carts have done."""

    def __init__(self, values: np.ndarray, after: np.ndarray, fallen: np.ndarray, over: np.ndarray) -> None:
        """Compute them.

        Args:
            values: [length, n], what the critic says of the states before each step.
            after: [length, n], what it says of the states after each step.
            fallen: [length, n], whether the pole fell.
            over: [length, n], whether the episode ended.
        """
        errors = 1 + DISCOUNT * np.where(fallen, 0, after) - values
        self.advantages = np.zeros_like(errors)
        running = np.zeros(errors.shape[1])
        for t in reversed(range(len(errors))):
            running = errors[t] + DISCOUNT * TRACE * np.where(over[t], 0, running)
            self.advantages[t] = running
        self.returns = self.advantages + values


def evaluate(net: ActorCritic, episodes: int, seed: int) -> np.ndarray:
    """Return the lengths of ``episodes`` of the policy's likelier actions, each with a cart of its own."""
    carts = Carts(episodes, np.random.default_rng(seed))
    lengths = np.zeros(episodes)
    running = np.ones(episodes, bool)
    with tg.no_grad():
        while running.any():
            logits, _ = net(tensor(carts.state))
            _, _, over = carts.step(logits.argmax(1).numpy())
            lengths += running
            running &= ~over
    return lengths


def draw(path: Path, net: ActorCritic, history: list[list[float]]) -> None:
    """Draw the way of learning, and what the policy does in one episode."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    updates, means = zip(*history, strict=True) if history else ([], [])
    left.plot(updates, means)
    left.axhline(SOLVED, color="k", lw=0.7, ls=":")
    left.set(xlabel="update", ylabel="steps of the last 100 episodes", title="learning", ylim=(0, 510))
    carts = Carts(1, np.random.default_rng(7))
    states = [carts.state[0]]
    with tg.no_grad():
        for _ in range(LIMIT):
            after, _, over = carts.step(net(tensor(carts.state))[0].argmax(1).numpy())
            states.append(after[0])
            if over[0]:
                break
    seconds = np.arange(len(states)) * Carts.SECONDS
    right.plot(seconds, [state[0] for state in states], label="cart's place, m")
    right.plot(seconds, [10 * state[2] for state in states], lw=0.7, label="pole's angle, 0.1 radians")
    right.set(xlabel="seconds", title="an episode")
    right.legend()
    figure.savefig(path, dpi=80)


def main() -> None:
    """Learn until 100 episodes last 475 steps on average, test, draw."""
    args = parser.parse_args()
    if args.quick:
        args.steps, args.carts, args.length = 4, 4, 8
    tg.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    checkpoint = args.out / "checkpoint.safetensors"
    net = ActorCritic()
    optimizer = optim.Adam(net.parameters(), lr=args.lr)
    scheduler = optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=args.steps)
    carts = Carts(args.carts, rng)
    update, steps, seconds, recent, history = 0, 0, 0.0, [], []
    if args.resume and checkpoint.exists():
        state = tg.load(checkpoint)
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        rng.bit_generator.state = state["numpy_rng"]
        carts.state, carts.age = state["carts"], state["ages"]
        update, steps, seconds, recent, history = state["progress"]

    def save() -> None:
        parts = {"net": net, "optimizer": optimizer, "scheduler": scheduler}
        state = {name: part.state_dict() for name, part in parts.items()}
        state |= {"carts": carts.state, "ages": carts.age, "numpy_rng": rng.bit_generator.state}
        tg.save({**state, "progress": [update, steps, seconds, recent, history]}, checkpoint)

    def act(states: tg.Tensor) -> tuple[tg.Tensor, tg.Tensor]:
        with tg.no_grad():
            logits, values = net(states)
            return logits.softmax(1), values

    def learn(states: tg.Tensor, actions: tg.Tensor, advantages: tg.Tensor, returns: tg.Tensor) -> None:
        optimizer.zero_grad()
        logits, values = net(states)
        logs = F.log_softmax(logits, 1)
        policy_loss = -(logs.gather(1, actions.unsqueeze(1)).squeeze(1) * advantages).mean()
        entropy = -(logs.exp() * logs).sum(1).mean()
        value_loss = F.mse_loss(values / 100, returns / 100)
        (policy_loss + 0.5 * value_loss - 0.01 * entropy).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 0.5)
        optimizer.step()
        scheduler.step()

    if not args.eager:
        act, learn = tg.compile(act), tg.compile(learn)
    interrupted = []
    signal.signal(signal.SIGINT, lambda *_: interrupted.append(True) if not interrupted else exit(130))
    start = time.perf_counter() - seconds
    bar = tqdm(total=args.steps, initial=update, disable=None)
    solved = False
    while update < args.steps and not solved and not interrupted:
        rows = []
        for _ in range(args.length):
            before = carts.state
            chances, values = act(tensor(before))
            actions = (rng.random(args.carts) < chances.numpy()[:, 1]).astype(np.int64)
            ages = carts.age + 1
            after, fallen, over = carts.step(actions)
            recent = (recent + ages[over].tolist())[-100:]
            rows.append((before, actions, values.numpy(), after, fallen, over))
        states, actions, values, after, fallen, over = (np.stack(column) for column in zip(*rows, strict=True))
        with tg.no_grad():
            later = net(tensor(after.reshape(-1, 4)))[1].numpy().reshape(values.shape)
        worth = Worth(values, later, fallen, over)
        spread = worth.advantages.std() + 1e-6
        advantages = (worth.advantages - worth.advantages.mean()) / spread
        learn(
            tensor(states.reshape(-1, 4)),
            tg.from_numpy(actions.reshape(-1)),
            tensor(advantages.reshape(-1)),
            tensor(worth.returns.reshape(-1)),
        )
        update, steps, seconds = update + 1, steps + states.shape[0] * states.shape[1], time.perf_counter() - start
        bar.update()
        if recent:
            history.append([update, float(np.mean(recent))])
        solved = len(recent) == 100 and np.mean(recent) >= SOLVED and evaluate(net, 100, seed=update).mean() >= SOLVED
        if update % max(1, args.steps // 20) == 0:
            mean = np.mean(recent) if recent else 0
            tqdm.write(f"update {update:4}  {steps:7,} steps  last 100 episodes {mean:5.1f}  {seconds:.1f} s")
            save()
    bar.close()
    save()
    if interrupted:
        print(f"interrupted after update {update}: go on with --resume")
        return
    lengths = evaluate(net, 4 if args.quick else 100, seed=12345)
    draw(args.out / "cartpole.png", net, history)
    print(f"{'solved' if solved else 'not solved'} after {update} updates, {steps:,} steps, {seconds:.1f} s")
    print(f"average over {len(lengths)} new episodes, likelier action: {lengths.mean():.1f}, worst {lengths.min():.0f}")
    print(args.out / "cartpole.png")


if __name__ == "__main__":
    main()
