"""What an LM can do of the generated suites, module by module, with right demos: for setting how hard they are.

python benchmarks/generated_suites.py local/nano 40
"""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from harness.context import Context, running
from harness.errors import ParseError
from harness.lm.request import LMRef, Sampling
from harness.modules import Module
from harness.runtime import Runtime
from harness.state import Demo, State
from programs.arithmetic import solve
from programs.two_hop import find_next, read_answer
from suites import test_arithmetic as arithmetic
from suites import test_two_hop as two_hop

Pair = tuple[Mapping[str, Any], Mapping[str, Any]]


def steps_of(row: Mapping[str, Any]) -> Pair:
    """A story with its steps written out."""
    first, *changes = re.split(r"(?<=\.) ", row["question"].rpartition(". ")[0] + ".")
    count, lines = int(re.findall(r"\d+", first)[0]), []
    for sentence in changes:
        by = int(re.findall(r"\d+", sentence)[0])
        told = (re.sub(r"\\{\w+\\}", r"[\\w ]+", re.escape(template)) for template in arithmetic.GAINS)
        sign = 1 if any(re.fullmatch(template, sentence) for template in told) else -1
        lines.append(f"{count} {'+' if sign > 0 else '-'} {by} = {count + sign * by}.")
        count += sign * by
    return {"question": row["question"]}, {"reasoning": " ".join(lines), "answer": count}


def hops_of(row: Mapping[str, Any]) -> Iterator[Pair]:
    """The three calls that answer a question rightly."""
    titles = {page.partition(" | ")[0]: page for page in row["pages"]}
    work = next(title for title in titles if f" of {title} " in row["question"])
    person = next(title for title in titles if title != work and title in titles[work].partition(" | ")[2])
    question = row["question"]
    yield {"context": [], "question": question}, {"search_query": work}
    yield {"context": [titles[work]], "question": question}, {"search_query": person}
    yield {"context": [titles[work], titles[person]], "question": question}, {"answer": row["place"]}


def share(runtime: Runtime, lm: str, module: Module[..., Any], pairs: Sequence[Pair], count: int, demos: int) -> float:
    """How many of the first ``count`` calls give the right value, with demos drawn from the others."""
    rng = random.Random(0)
    right = 0
    for inputs, outputs in pairs[:count]:
        shown = tuple(Demo(*pair) for pair in rng.sample(pairs[count:], demos))
        state = State(LMRef(lm)).with_demos({module.signature.name: shown})
        with running(Context(runtime.client, state, Sampling(max_tokens=48))):
            try:
                right += module(**inputs) == list(outputs.values())[-1]
            except ParseError:
                continue
    return right / count


def main() -> None:
    lm, count = (sys.argv[1:] + ["local/nano", "40"][len(sys.argv) - 1 :])[:2]
    stories = [steps_of(row) for row in arithmetic.test_arithmetic.__bt_suite__.data()["test"]]
    hops = [list(hops_of(row)) for row in two_hop.test_two_hop.__bt_suite__.data()["test"]]
    asked: list[tuple[str, Module[..., Any], list[Pair]]] = [("arithmetic", solve, stories)]
    for name, module, place in (
        ("first query", find_next, 0),
        ("second query", find_next, 1),
        ("answer", read_answer, 2),
    ):
        asked.append((f"two-hop, {name}", module, [calls[place] for calls in hops]))
    with Runtime.open(None) as runtime:
        for name, module, pairs in asked:
            shares = (
                f"{demos} demos {share(runtime, lm, module, pairs, int(count), demos):.2f}" for demos in (0, 2, 4, 8)
            )
            print(f"{name:<24}", "   ".join(shares), flush=True)


if __name__ == "__main__":
    main()
