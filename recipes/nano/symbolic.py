"""Episodes about words: classification by a category, copying, and formats with several typed outputs."""

from __future__ import annotations

from random import Random

from recipes.nano.episode import Episode, Turn, Value, options_hint
from recipes.nano.words import (
    PARTS,
    THINGS,
    class_label,
    distinct,
    first_name,
    invented,
    listed,
    output_name,
    proper_name,
)

FIELDS = listed(
    """
    color shape size kind weather season region status texture origin mood taste level sign material habitat
    """
)
TEXTS = ["text", "words", "input", "phrase", "sentence", "line"]


def _field(rng: Random) -> str:
    base = rng.choice(FIELDS)
    return f"{rng.choice(PARTS)}_{base}" if rng.random() < 0.25 else base if rng.random() < 0.8 else invented(rng)


def categorical(rng: Random, turns: int, *, held_out: bool = False, easy: bool = False) -> Episode:
    """One of up to three fields decides the class; which one, and how, is seen only in the demos.

    ``easy`` values and classes are one common word each.
    """
    fields = distinct(lambda: _field(rng), rng.choice([1, 1, 2, 2, 3]))
    labels = distinct(lambda: class_label(rng, held_out, easy), rng.randint(2, 4))
    output = output_name(rng)
    count = rng.randint(2, 5)
    numbers = rng.random() < 0.2
    values: list[list[str]] = [
        distinct(lambda: str(rng.randint(0, 300)) if numbers else class_label(rng, held_out, easy), count)
        for _ in fields
    ]
    decides = rng.randrange(len(fields))
    meaning = {value: labels[i] if i < len(labels) else rng.choice(labels) for i, value in enumerate(values[decides])}
    rng.shuffle(values[decides])
    built = []
    for _ in range(turns):
        drawn = [rng.choice(options) for options in values]
        inputs: tuple[tuple[str, Value], ...] = tuple(zip(fields, drawn, strict=True))
        built.append(Turn(inputs, ((output, meaning[drawn[decides]]),)))
    thing = rng.choice([*THINGS, invented(rng)])
    instruction = rng.choice(
        [
            f"Classify the {thing}.",
            f"Name the {output.replace('_', ' ')} of the {thing}.",
            f"Given the fields, produce the {output}.",
            f"Which group does the {thing} belong to?",
            f"Decide from the {fields[decides].replace('_', ' ')}.",
            f"Sort each {thing}.",
            "Follow the examples.",
            f"Predict the {output} of the {thing}.",
        ]
    )
    hint = options_hint(rng.sample(labels, len(labels))) if rng.random() < 0.9 or turns == 1 else "text"
    return Episode("categorical", instruction, ((output, hint),), tuple(built))


def _token(rng: Random, held_out: bool) -> str:
    draw = rng.random()
    if draw < 0.5:
        return class_label(rng, held_out)
    if draw < 0.7:
        return proper_name(rng, held_out, 1)
    if draw < 0.9:
        return str(rng.randint(0, 999) if rng.random() < 0.5 else round(rng.uniform(0, 99), 1))
    return invented(rng, 1, 3, held_out)


COPIES = {
    "copy": [
        "Copy the text.",
        "Repeat the words.",
        "Say the same words again.",
        "Return the input unchanged.",
    ],
    "first": ["Give the first word.", "What is the first word?", "Return only the first word."],
    "last": ["Give the last word.", "What is the last word?", "Return only the last word."],
    "list": ["List the words.", "Make a list of the words.", "Split the text into a list."],
    "count": ["Count the words.", "How many words are there?"],
    "named": [
        "Give the value that is asked for.",
        "Look up the field that is named.",
        "Return the named field.",
    ],
}


def copying(rng: Random, turns: int, *, held_out: bool = False) -> Episode:
    """Repeat, pick, list or look up words of the input."""
    task = rng.choice(["copy", "copy", "first", "last", "list", "count", "named", "named"])
    field, output = rng.choice(TEXTS), output_name(rng)
    keys = distinct(lambda: _field(rng), 3)
    hint = {"list": 'a list, one "- item" per line', "count": "a whole number"}.get(task, "text")
    built = []
    for _ in range(turns):
        words = [_token(rng, held_out).replace(" ", "_") for _ in range(rng.randint(2, 6))]
        text = (", " if task == "list" and field != "words" else " ").join(words)
        inputs: tuple[tuple[str, Value], ...] = ((field, text),)
        if task == "named":
            asked = rng.randrange(3)
            inputs = (*zip(keys, words + words, strict=False), ("wanted", keys[asked]))
            built.append(Turn(inputs, ((output, (words + words)[asked]),)))
        else:
            results: dict[str, Value] = {
                "copy": text,
                "first": words[0],
                "last": words[-1],
                "list": tuple(words),
                "count": str(len(words)),
            }
            built.append(Turn(inputs, ((output, results[task]),)))
    return Episode("copying", rng.choice(COPIES[task]), ((output, hint),), tuple(built))


def typed(rng: Random, turns: int, *, held_out: bool = False) -> Episode:
    """Several outputs of several types, read off a short record: what keeps answers well-formed."""
    flags = {
        "active": ("yes", "no"),
        "member": ("true", "false"),
        "open": ("true", "false"),
        "paid": ("yes", "no"),
    }
    flag = rng.choice(list(flags))
    labels = distinct(lambda: class_label(rng, held_out), 3)
    fields = {
        "name": "text",
        "age": "a whole number",
        "height": "a number",
        "kind": options_hint(labels),
        "tags": 'a list, one "- item" per line',
        flag: "true or false",
    }
    wanted = rng.sample(list(fields), rng.randint(1, 3))
    built = []
    for _ in range(turns):
        yes = rng.random() < 0.5
        tags = distinct(lambda: class_label(rng, held_out, True), rng.randint(1, 3))
        record: dict[str, Value] = {
            "name": first_name(rng, held_out),
            "age": rng.randint(1, 99),
            "height": round(rng.uniform(0.5, 40), 1),
            "kind": rng.choice(labels),
            "tags": tuple(tags),
            flag: "true" if yes else "false",
        }
        says = f"{flag}" if yes else f"not {flag}"
        text = f"{record['name']} is {record['age']} years old, {record['height']} high, a {record['kind']}, {says}"
        built.append(
            Turn(
                (("record", text + ", " + " and ".join(tags) + "."),),
                tuple((key, record[key]) for key in wanted),
            )
        )
    instruction = rng.choice(["Read the record.", "Extract the fields.", "Fill in the form.", "Extract what is asked."])
    return Episode("typed", instruction, tuple((key, fields[key]) for key in wanted), tuple(built))
