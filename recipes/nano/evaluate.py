"""The table of results: held-out episodes, exact answers, 95 % intervals, the nearest neighbour where it applies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from math import dist, exp, sqrt
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import torch

from recipes.nano.arithmetic import drills, word_problems
from recipes.nano.episode import Episode, Turn, messages
from recipes.nano.numeric import Table, table
from recipes.nano.passages import passages
from recipes.nano.symbolic import categorical, copying


class Share(NamedTuple):
    """How many of how many, as a share with its 95 % Wilson interval."""

    share: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.share:.3f} [{self.low:.3f}, {self.high:.3f}]"


class Row(NamedTuple):
    """One line of the table."""

    task: str
    demos: int
    model: Share
    neighbour: Share | None = None
    aim: float | None = None


def share(hits: Sequence[bool]) -> Share:
    """The share of hits."""
    count, z = len(hits), 1.96
    found = sum(hits) / count
    middle = (found + z * z / (2 * count)) / (1 + z * z / count)
    half = z * sqrt(found * (1 - found) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return Share(found, max(0.0, middle - half), min(1.0, middle + half))


def prompt(episode: Episode) -> list[dict[str, str]]:
    """The episode's chat up to the answer that is asked for."""
    return messages(episode)[:-1]


def last_field(text: str) -> str:
    """The value of the last field of an answer."""
    line = text.strip("\n").rsplit("\n", 1)[-1]
    return line.split(": ", 1)[-1].strip()


def expected(episode: Episode) -> str:
    """The value of the last field of the answer that is asked for."""
    return last_field(messages(episode)[-1]["content"])


class Model:
    """The exported model in the same process."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()

    @torch.no_grad()
    def answers(
        self,
        chats: Sequence[list[dict[str, str]]],
        *,
        sample: bool = False,
        longest: int = 96,
        batch: int = 32,
    ) -> list[str]:
        """One completion for each chat, greedy unless ``sample`` (temperature 1)."""
        found: list[str] = []
        for start in range(0, len(chats), batch):
            texts = [
                self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
                for chat in chats[start : start + batch]
            ]
            inputs = self.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
            how = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0} if sample else {"do_sample": False}
            made = self.model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=longest,
                **how,
            )
            width = inputs["input_ids"].shape[1]
            found += self.tokenizer.batch_decode(made[:, width:], skip_special_tokens=True)
        return found

    @torch.no_grad()
    def probability(self, chat: list[dict[str, str]], answer: str) -> float:
        """The probability that sampling at temperature 1 gives exactly ``answer`` and stops."""
        head = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        start = self.tokenizer(head, add_special_tokens=False)["input_ids"]
        rest = self.tokenizer(answer + self.tokenizer.eos_token, add_special_tokens=False)["input_ids"]
        logits = self.model(torch.tensor([start + rest])).logits[0, len(start) - 1 : -1]
        logs = torch.log_softmax(logits.float(), -1)
        return exp(float(logs[torch.arange(len(rest)), torch.tensor(rest)].sum()))


def nearest(made: Table) -> bool:
    """Whether the nearest demo has the class of the last turn."""
    *points, query = made.points
    best = min(range(len(points)), key=lambda index: dist(points[index], query))
    return made.labels[best] == made.labels[-1]


def exact(model: Model, episodes: Iterable[Episode], longest: int = 96) -> list[bool]:
    """Whether the model's last field equals the expected one, for each episode."""
    chosen = list(episodes)
    found = model.answers([prompt(episode) for episode in chosen], longest=longest)
    return [last_field(text) == expected(episode) for text, episode in zip(found, chosen, strict=True)]


def numeric_row(
    model: Model,
    features: int,
    demos: int,
    episodes: int,
    *,
    reasoning: bool = False,
    aim: float | None = None,
) -> Row:
    """One line about numeric classification into three classes."""
    rng = Random(f"numeric/{features}/{demos}")
    made = [
        table(rng, demos + 1, features=features, classes=3, held_out=True, reasoning=reasoning, options=1.0)
        for _ in range(episodes)
    ]
    name = f"numeric, {features} feature{'s' * (features > 1)}, 3 classes" + ", reasoning" * reasoning
    neighbour = share([nearest(one) for one in made]) if demos else None
    return Row(name, demos, share(exact(model, [one.episode for one in made], 64 if reasoning else 24)), neighbour, aim)


def zero_shot(model: Model, episodes: int) -> tuple[Share, float, Share]:
    """Without demos, three classes: sampled answers that name an option; the mean probability of the least likely
    option; the share of tasks that give every option at least .10."""
    rng = Random("zero-shot")
    made = [
        table(rng, 1, features=rng.randint(1, 4), classes=3, held_out=True, options=1.0).episode
        for _ in range(episodes)
    ]
    formed, least = [], []
    for episode, text in zip(made, model.answers([prompt(e) for e in made], sample=True, longest=24), strict=True):
        name, hint = episode.reply[-1]
        options = hint.removeprefix("one of ").split(", ")
        formed.append(text in [f"{name}: {option}" for option in options])
        least.append(min(model.probability(prompt(episode), f"{name}: {option}") for option in options))
    return share(formed), sum(least) / len(least), share([value >= 0.1 for value in least])


def rows(model: Model, episodes: int) -> Iterable[Row]:
    """Every line of the table."""
    for features, aims in ((1, {12: 0.93}), (2, {}), (4, {12: 0.88})):
        for demos in (3, 6, 12):
            yield numeric_row(model, features, demos, episodes, aim=aims.get(demos))
    yield numeric_row(model, 4, 12, episodes, reasoning=True)
    asked: list[tuple[str, int, float | None, Callable[[Random, int], Episode]]] = [
        ("categorical", 12, 0.85, lambda rng, turns: _known(lambda: categorical(rng, turns, held_out=True))),
        ("copying, picking, listing", 4, None, lambda rng, turns: copying(rng, turns, held_out=True)),
        *(
            (f"{name}, unseen {what}", 4, aim, partial(passages, held_out=True, unseen=unseen, task=task))
            for name, task, aim in (
                ("answers from one passage of several", "one", 0.8),
                ("answers from two passages", "two", None),
                ("query from question", "first", 0.8),
                ("query from question and passage", "next", None),
            )
            for what, unseen in (("names", False), ("names, sentences and pairs of relations", True))
        ),
        ("arithmetic", 4, 0.8, lambda rng, turns: _reasoned(lambda: drills(rng, turns, held_out=True))),
        (
            "word problems, unseen templates",
            4,
            0.5,
            lambda rng, turns: word_problems(rng, turns, held_out=True),
        ),
        (
            "word problems, seen templates",
            4,
            None,
            lambda rng, turns: _reasoned(lambda: word_problems(rng, turns)),
        ),
        (
            "word problems, seen templates",
            0,
            None,
            lambda rng, turns: _reasoned(lambda: word_problems(rng, turns)),
        ),
    ]
    for name, demos, aim, draw in asked:
        rng = Random(f"{name}/{demos}")
        made = [draw(rng, demos + 1) for _ in range(episodes)]
        yield Row(name, demos, share(exact(model, made, 64)), aim=aim)


def _reasoned(draw: Callable[[], Episode]) -> Episode:
    """An episode whose answers come with reasoning."""
    while len((episode := draw()).reply) < 2:
        pass
    return episode


def _known(draw: Callable[[], Episode]) -> Episode:
    """An episode whose last answer can be told from its demos: a field's value in it meant that answer before."""
    while True:
        episode = draw()
        *demos, query = episode.turns
        if any(_tells(demos, query, place) for place in range(len(query.inputs))):
            return episode


def _tells(demos: Sequence[Turn], query: Turn, place: int) -> bool:
    meaning: dict[object, object] = {}
    for demo in demos:
        value, answer = demo.inputs[place][1], demo.outputs[-1][1]
        if meaning.setdefault(value, answer) != answer:
            return False
    return meaning.get(query.inputs[place][1]) == query.outputs[-1][1]


def report(folder: Path, episodes: int) -> str:
    """The table as Markdown."""
    torch.manual_seed(0)
    model = Model(folder)
    lines = ["| held-out task | demos | model [95 %] | 1-nearest-neighbour | aim |", "|---|---|---|---|---|"]
    for row in rows(model, episodes):
        aim = f"{row.aim:.2f}" if row.aim is not None else ""
        lines.append(f"| {row.task} | {row.demos} | {row.model} | {row.neighbour or ''} | {aim} |")
    formed, least, balanced = zero_shot(model, episodes)
    lines.append(f"| zero-shot: sampled answer is one of the options | 0 | {formed} | | 0.95 |")
    lines.append(f"| zero-shot: every option has probability >= .10 | 0 | {balanced} (mean least {least:.3f}) | | |")
    return "\n".join(lines)
