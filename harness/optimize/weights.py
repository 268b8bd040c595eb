"""``w``: BootstrapFinetune (the paper's FineTune): one LoRA adapter for all modules, taught by passing traces."""

from __future__ import annotations

from collections.abc import Sequence

from harness.errors import NothingToTrainError
from harness.evaluate import Run
from harness.optimize.bench import Bench, Outcome
from harness.optimize.bootstrap import bootstrap
from harness.prompt import chat, from_json, write_reply
from harness.results import Spend
from harness.state import Prompt, State
from harness.trace import ModuleCall
from harness.train.job import ChatExample, TrainingJob

__all__ = ["chat_examples", "optimize_weights"]


def optimize_weights(state: State, bench: Bench, task: str) -> Outcome:
    """Fine-tune on the current program's passing traces, then reset every prompt to the original.

    There is no new state where no trace passes.
    """
    found = bootstrap(state, bench.splits.train, bench, task)
    structured = bench.settings.structured and bench.evaluator.client.takes_schema(state.lm.model)
    examples = chat_examples(found.runs, structured=structured)
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
    notes = f"{found.summary}; {how} on {result.examples} calls"
    if left := len(examples) - result.examples:
        notes += f" ({left} left out as longer than max_length or the LM's context)"
    if result.losses:
        notes += f", loss {result.losses[0]:.2f} to {result.losses[-1]:.2f}"
    return Outcome(state.with_adapter(result.adapter), spend, notes)


def chat_examples(runs: Sequence[Run], *, structured: bool = False) -> tuple[ChatExample, ...]:
    """Every module call of the runs: the completion under the original zero-shot prompt.

    It is the raw one, unless the LM that gave it (a teacher) replies in another format than the one that is tuned.
    """
    return tuple(
        _chat_example(call, structured) for run in runs for call in run.trace.calls if call.outputs is not None
    )


def _chat_example(call: ModuleCall, structured: bool) -> ChatExample:
    assert call.completion is not None
    assert call.outputs is not None
    contract, reply = call.signature, call.completion.text
    if bool(call.request.schema) != structured:
        reply = write_reply(contract, from_json(contract.reply, call.outputs), structured=structured)
    inputs = from_json(contract.inputs, call.inputs)
    return ChatExample(chat(contract, Prompt(), inputs, structured=structured), reply)
