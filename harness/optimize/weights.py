"""``w``: BootstrapFinetune (the paper's FineTune): one LoRA adapter for all modules, taught by passing traces."""

from __future__ import annotations

from collections.abc import Sequence

from harness.errors import NothingToTrainError
from harness.evaluate import Run
from harness.optimize.bench import Bench, Outcome
from harness.optimize.bootstrap import bootstrap
from harness.prompt import chat, from_json
from harness.results import Spend
from harness.state import Prompt, State
from harness.train.job import ChatExample, TrainingJob

__all__ = ["chat_examples", "optimize_weights"]


def optimize_weights(state: State, bench: Bench, task: str) -> Outcome:
    """Fine-tune on the current program's passing traces, then reset every prompt to the original.

    There is no new state where no trace passes.
    """
    found = bootstrap(state, bench.splits.train, bench, task)
    examples = chat_examples(found.runs)
    if not examples:
        return Outcome(None, found.spend, f"no trace to train on: {found.summary}")
    job = TrainingJob(state.lm, examples, bench.settings.lora, bench.seed)
    try:
        trained = bench.train(job, f"{task}: training")
    except NothingToTrainError as error:  # no example is short enough
        return Outcome(None, found.spend, str(error))
    result = trained.result
    spend = found.spend + Spend(training_seconds=result.seconds, trainings=0 if trained.cached else 1)
    how = f"{result.steps} steps" if result.steps else "trained by the provider"
    notes = f"{found.summary}; {how} on {len(examples)} calls"
    if result.losses:
        notes += f", loss {result.losses[0]:.2f} to {result.losses[-1]:.2f}"
    return Outcome(state.with_adapter(result.adapter), spend, notes)


def chat_examples(runs: Sequence[Run]) -> tuple[ChatExample, ...]:
    """Every module call of the runs: the raw completion under the original zero-shot prompt."""
    return tuple(
        ChatExample(chat(call.signature, Prompt(), from_json(call.signature.inputs, call.inputs)), completion.text)
        for run in runs
        for call in run.trace.calls
        if (completion := call.completion) is not None and call.outputs is not None
    )
