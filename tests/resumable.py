"""A training program that tests/test_resume.py kills at any moment: `python resumable.py FOLDER STEPS`.

It writes a checkpoint after every second step, begins where the last one was written, and ends by writing final.ckpt.
"""

import sys
from pathlib import Path

import tapegrad as tg
from tapegrad import nn, optim
from tapegrad.utils.data import DataLoader, TensorDataset


class Training:
    """All that a run depends on."""

    def __init__(self):
        tg.manual_seed(5)
        x = tg.randn(150, 6)
        y = (x[:, :1] * x[:, 1:2]).tanh()
        self.model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Dropout(0.3), nn.Linear(16, 1))
        self.optimizer = optim.Adam(self.model.parameters(), lr=0.01)
        self.scheduler = optim.lr_scheduler.StepLR(self.optimizer, 7, gamma=0.97)
        self.loader = DataLoader(TensorDataset(x, y), 16, shuffle=True)
        self.step = 0

    def state_dict(self):
        names = ("model", "optimizer", "scheduler", "loader")
        parts = {name: getattr(self, name).state_dict() for name in names}
        return {**parts, "step": self.step, "rng": tg.get_rng_state()}

    def load_state_dict(self, state):
        for name in ("model", "optimizer", "scheduler", "loader"):
            getattr(self, name).load_state_dict(state[name])
        self.step = state["step"]
        tg.set_rng_state(state["rng"])

    def run(self, steps, checkpoint):
        while self.step < steps:
            for x, y in self.loader:
                self.optimizer.zero_grad()
                nn.functional.mse_loss(self.model(x), y).backward()
                self.optimizer.step()
                self.scheduler.step()
                self.step += 1
                if self.step % 2 == 0:
                    tg.save(self.state_dict(), checkpoint)
                if self.step == steps:
                    return


def main(folder, steps):
    training, checkpoint = Training(), folder / "last.ckpt"
    if checkpoint.exists():
        training.load_state_dict(tg.load(checkpoint))
    training.run(steps, checkpoint)
    tg.save(training.state_dict(), folder / "final.ckpt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
