"""Seeds repair a network that a shift of its inputs has broken. See docs/guides/seed-layers.md.

    python examples/seeds/recover.py [--shift rotated] [--epochs 120] [--picture docs/guides/seeds.svg]

A network reads handwritten digits rightly. Then the pictures come turned, moved, inverted or noisy, and it
does not. Its weights stay frozen; seeds germinate on its hidden layers, learn, are judged on held-out
pictures, and stay where they help. Everything comes from one random number, so a run can be repeated.
Beside that stands what can be reached at all with the shifted pictures: the same network with all of its
weights trained on them. The last line is one JSON object; its accuracies are on test pictures that neither
seeds nor policy have seen.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch

from seedbed.examples.seeds import digits
from seedbed.examples.seeds.picture import drawn
from seedbed.runtime.seeds.attach import AttachSpec, attach
from seedbed.runtime.seeds.blueprints import Growth
from seedbed.runtime.seeds.features import Features
from seedbed.runtime.seeds.policy import Decision, Limits
from seedbed.runtime.seeds.rules import Rules

HIDDEN = ("0", "2", "4")
"""The three hidden layers of the network, by name."""
SEEDS = 8
RANK = 4
ACTIVE = 4


@dataclass(frozen=True, slots=True)
class Story:
    """What happened.

    Attributes:
        shift: of the pictures.
        clean: test accuracy on pictures as the host knows them.
        broken: the same on shifted ones, before any seed.
        repaired: at the end, with seeds.
        added: numbers that the seeds which stayed or still try have, as a share of the host's.
        held_out: accuracy that the policy saw, after each epoch.
        stages: stage of each seed after each epoch.
        decisions: all that were carried out.
        seconds: from the trained host to the end.
    """

    shift: digits.Shift
    clean: float
    broken: float
    repaired: float
    added: float
    held_out: tuple[float, ...]
    stages: tuple[tuple[int, ...], ...]
    decisions: tuple[Decision, ...]
    seconds: float

    @property
    def recovered(self) -> float:
        """Share of the lost accuracy that came back."""
        return (self.repaired - self.broken) / (self.clean - self.broken)


def recover(shift: digits.Shift, epochs: int = 120, chance: int = 0) -> Story:
    """Break the network, let seeds repair it, and tell."""
    found = digits.digits()
    host = digits.trained(found.train, chance=chance)
    test = digits.shifted(found.test, shift)
    clean, broken = digits.accuracy(host, found.test), digits.accuracy(host, test)
    started = time.perf_counter()
    growth = Growth("mlp", kind="mlp", rank=RANK)
    spec = AttachSpec(HIDDEN, seeds_per_layer=SEEDS, blueprints=(growth,), chance=chance)
    model = attach(host, spec, Features.all_on())
    policy = Rules(Limits(blueprints=("mlp",), max_active=ACTIVE, patience=2))
    data = digits.data(shift, chance)
    decisions: list[Decision] = []
    stages = []
    for _ in range(epochs):
        told = model.train_epoch(data)
        decisions += model.apply(policy.decide(told, model.state))
        stages.append(tuple(model.state.stage.tolist()))
    of_host, of_seeds = model.parameters()
    return Story(
        shift,
        clean,
        broken,
        digits.accuracy(host, test),
        of_seeds / of_host,
        model.accuracies,
        tuple(stages),
        tuple(decisions),
        time.perf_counter() - started,
    )


def reachable(shift: digits.Shift, epochs: int = 60, chance: int = 0) -> float:
    """Test accuracy on shifted pictures if every weight of the host may change.

    The better of two, so that it is no modest bound: a network trained anew, and the trained host trained
    on; each at the epoch that is best on the held-out pictures.
    """
    found = digits.digits()
    held_out, test = (digits.shifted(part, shift) for part in (found.held_out, found.test))
    data = digits.data(shift, chance)
    reached = []
    for host, rate in (
        (digits.network(chance), 1e-3),
        (digits.trained(found.train, chance=chance), 3e-4),
    ):
        optimiser = torch.optim.Adam(host.parameters(), lr=rate)
        outcomes = []
        for epoch in range(epochs):
            for batch in data.train(epoch):
                optimiser.zero_grad()
                loss = torch.nn.functional.cross_entropy(host(*batch.inputs), batch.target)
                torch.autograd.backward(loss)
                optimiser.step()
            outcomes.append((digits.accuracy(host, held_out), digits.accuracy(host, test)))
        reached.append(max(outcomes)[1])
    return max(reached)


def told(story: Story, reached: float) -> dict[str, object]:
    """The figures of a story, beside what training all weights reaches."""
    return {
        "shift": story.shift,
        "clean": round(story.clean, 4),
        "broken": round(story.broken, 4),
        "repaired": round(story.repaired, 4),
        "recovered": round(story.recovered, 4),
        "reachable": round(reached, 4),
        "recovered_of_reachable": round(
            (story.repaired - story.broken) / (reached - story.broken), 4
        ),
        "added_parameters": round(story.added, 4),
        "fossils": sum(stage == 7 for stage in story.stages[-1]),
        "decisions": len(story.decisions),
        "epochs": len(story.held_out),
        "seconds": round(story.seconds, 1),
    }


def main() -> None:
    """Run one shift, or all of them, and print."""
    shifts = get_args(digits.Shift)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shift", choices=[*shifts, "all"], default="rotated")
    parser.add_argument("--epochs", type=int, default=120)
    parser.add_argument("--chance", type=int, default=0)
    parser.add_argument("--picture", type=Path, help="Draw the last story to this SVG file.")
    parser.add_argument("--log", type=Path, help="Write every decision to this file, one a line.")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    stories = [
        recover(shift, asked.epochs, asked.chance)
        for shift in (shifts if asked.shift == "all" else [asked.shift])
    ]
    reached = [reachable(story.shift, chance=asked.chance) for story in stories]
    for story, most in zip(stories, reached, strict=True):
        print(
            f"{story.shift:9} test accuracy {story.clean:.3f} clean, {story.broken:.3f} shifted, "
            f"{story.repaired:.3f} with seeds: {story.recovered:.0%} of the loss recovered with "
            f"{story.added:.1%} new parameters in {story.seconds:.0f} s; all weights: {most:.3f}"
        )
    if asked.log:
        lines = [json.dumps(one.record()) for story in stories for one in story.decisions]
        asked.log.write_text("\n".join(lines) + "\n")
    if asked.picture:
        last = stories[-1]
        asked.picture.write_text(drawn(last.held_out, last.stages, last.clean, last.shift))
    figures = [told(story, most) for story, most in zip(stories, reached, strict=True)]
    print(json.dumps({"example": "recover", "stories": figures}))


if __name__ == "__main__":
    main()
