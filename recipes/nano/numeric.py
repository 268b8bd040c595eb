"""Numeric classification episodes: name the class from one to six measurements.

Classes are clusters. Most episodes draw each feature's cluster centres on their own; the others place the classes in a
two-dimensional latent space from which all features follow, as correlated measurements of real things do.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import dist, hypot
from random import Random

from recipes.nano.episode import Episode, Turn, Value, options_hint
from recipes.nano.words import THINGS, class_label, distinct, invented, output_name, quantities, quantity

REASON = ("reasoning", "think step by step")


@dataclass(frozen=True)
class Feature:
    """How one measurement is distributed in each class, and how it is written."""

    decimals: int
    span: float
    means: tuple[float, ...]
    deviations: tuple[float, ...]

    def draw(self, rng: Random, label: int) -> float:
        """One measurement of a thing of class ``label``."""
        value = rng.gauss(self.means[label], self.deviations[label])
        return min(1999.0 if self.decimals == 0 else 99.9, max(0.0, value))

    def write(self, value: float) -> float | int:
        """The measurement as the program's input holds it."""
        return round(value, self.decimals) if self.decimals else round(value)


@dataclass(frozen=True)
class Table:
    """An episode and the numbers behind it, for the nearest-neighbour baseline."""

    episode: Episode
    points: tuple[tuple[float, ...], ...]
    labels: tuple[int, ...]


def _scale(rng: Random) -> tuple[int, float, float]:
    decimals = 1 if rng.random() < 0.78 else (0 if rng.random() < 0.75 else 2)
    if decimals:
        high: float = rng.choice([2, 3, 5, 8, 8, 10, 10, 15, 20, 30, 50, 99])
    else:
        high = rng.choice([20, 50, 100, 100, 200, 300, 500, 999, 1800])
    return decimals, (0.0 if rng.random() < 0.42 else high * rng.random() * 0.7), high


def _latent_features(rng: Random, count: int, classes: int, hard: float) -> list[Feature]:
    for _ in range(20):
        centres = [(rng.gauss(0, 1), rng.gauss(0, 1)) for _ in range(classes)]
        if min(dist(a, b) for i, a in enumerate(centres) for b in centres[:i]) > 1.2:
            break
    features = []
    for _ in range(count):
        decimals, low, high = _scale(rng)
        span = high - low
        x, y = rng.gauss(0, 1), rng.gauss(0, 1)
        norm = hypot(x, y)
        spread = rng.choice([0.25, 0.2, 0.15])
        means = [low + span * (0.5 + spread * (a * x + b * y) / norm) for a, b in centres]
        deviations = [span * spread * rng.uniform(0.1, 0.35 + 0.35 * hard) for _ in range(classes)]
        means = [min(high * 1.1, max(low, mean)) for mean in means]
        features.append(Feature(decimals, span, tuple(means), tuple(deviations)))
    return features


def _separate_features(rng: Random, count: int, classes: int, hard: float) -> list[Feature]:
    informative = [rng.random() < 0.85 for _ in range(count)]
    informative[rng.randrange(count)] = True
    features = []
    for tells in informative:
        decimals, low, high = _scale(rng)
        span = high - low
        if tells:
            gap = {2: 0.28, 3: 0.2}.get(classes, 0.14) * (1 if rng.random() < 0.7 or count == 1 else 0.5)
            for _ in range(30):
                means = [low + rng.uniform(0.04, 0.96) * span for _ in range(classes)]
                ordered = sorted(means)
                if min(b - a for a, b in pairwise(ordered)) > span * gap:
                    break
        else:
            means = [low + rng.uniform(0.1, 0.9) * span] * classes
        width = 1.0 if tells else 3.0
        deviations = [span * rng.uniform(0.01, 0.04 + 0.06 * hard) * width for _ in range(classes)]
        features.append(Feature(decimals, span, tuple(means), tuple(deviations)))
    return features


def _instruction(rng: Random, names: list[str], output: str) -> str:
    thing = rng.choice([*THINGS, invented(rng)])
    target = output.replace("_", " ") if output != "answer" else rng.choice(["class", "kind", "type", "group", "label"])
    listed = [name.replace("_", " ") for name in names]
    fields = listed[0] if len(listed) == 1 else ", ".join(listed[:-1]) + " and " + listed[-1]
    unit = rng.choice(["", "", "", " in cm", " in mm", " in kg", " in grams", " in seconds"])
    text = rng.choice(
        [
            f"Classify the {thing}.",
            f"Name the {target} of the {thing} from its {fields}{unit}.",
            f"Name the {thing} {target} from its {fields}{unit}.",
            f"Predict the {target} from the measurements{unit}.",
            f"Predict the {thing}'s {target} from its {fields}{unit}.",
            f"Given {fields}, name the {target} of the {thing}.",
            f"Which {target} does the {thing} belong to?",
            f"Decide which {target} the {thing} is, using {fields}.",
            f"Tell the {target} of each {thing} by its measurements{unit}.",
            f"Sort each {thing} into a {target}.",
            f"Assign the {thing} to one of the {target}s.",
            f"What {target} is this {thing}?",
            f"Use the measurements of the {thing} to pick its {target}.",
            f"Identify the {target} from {fields}{unit}.",
            f"Given the fields, produce the {output}.",
            f"Label the {thing}.",
        ]
    )
    if rng.random() < 0.15:
        text += rng.choice([" Answer with one word.", " Choose the best fit.", " Use the examples.", " Be careful."])
    return text


def table(
    rng: Random,
    turns: int,
    *,
    features: int,
    classes: int | None = None,
    reasoning: bool = False,
    easy: bool = False,
    hard: float = 0.3,
    held_out: bool = False,
    options: float = 0.92,
) -> Table:
    """An episode of ``turns`` measured things; ``easy`` keeps to short names, ``hard`` widens the clusters."""
    count = classes or rng.choice([2, 3, 3, 3, 4])
    labels = distinct(lambda: class_label(rng, held_out, easy), count)
    names = quantities(rng, features, held_out, easy)
    output = "answer" if easy else output_name(rng)
    make = _latent_features if features > 1 and rng.random() < 0.4 else _separate_features
    columns = make(rng, features, count, hard)
    hint = options_hint(rng.sample(labels, count)) if rng.random() < options or turns == 1 else "text"
    built: list[Turn] = []
    points: list[tuple[float, ...]] = []
    drawn: list[int] = []
    order: list[int] = []
    for _ in range(turns):
        if not order:
            order = list(range(count)) if rng.random() < 0.5 else [rng.randrange(count) for _ in range(count)]
            rng.shuffle(order)
        label = order.pop()
        values = [column.draw(rng, label) for column in columns]
        written = [column.write(value) for column, value in zip(columns, values, strict=True)]
        inputs: tuple[tuple[str, Value], ...] = tuple(zip(names, written, strict=True))
        outputs: list[tuple[str, Value]] = [(output, labels[label])]
        if reasoning:
            outputs.insert(0, ("reasoning", ", ".join(str(value) for value in written)))
        built.append(Turn(inputs, tuple(outputs)))
        points.append(tuple(value / column.span for column, value in zip(columns, values, strict=True)))
        drawn.append(label)
    reply = ((REASON,) if reasoning else ()) + ((output, hint),)
    given: tuple[tuple[str, str], ...] = ()
    if rng.random() < 0.1 and not easy:
        given = tuple(
            (name, rng.choice(["in cm", "in mm", "in kg", f"the {quantity(rng)}", "measured"])) for name in names
        )
    episode = Episode(f"numeric{features}", _instruction(rng, names, output), reply, tuple(built), given)
    return Table(episode, tuple(points), tuple(drawn))
