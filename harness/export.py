"""A tuned program as a folder that any server can run: weights, prompts and how to serve them."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from harness.errors import ParseError, TunedProgramError, UsageError
from harness.modules import Module
from harness.prompt import demo_turns, system_text
from harness.state import Prompt
from harness.train.adapters import CONFIG_FILE, is_digest
from harness.tuned import TunedFile, read_tuned

__all__ = ["export"]

_RANKS: Final = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM's ``--max-lora-rank`` may be."""


def export(tuned: Path, folder: Path, *, merge: bool = False) -> list[Path]:
    """Write the program, its adapter, each module's prompt and a README into ``folder``; the files written.

    With ``merge`` the base model's weights with the adapter merged in take the adapter's place. The program is
    imported where it can be, for the text of its prompts.

    Raises:
        TunedProgramError: the file cannot be read, or the program's code fails or no longer fits it.
        AdapterError: its weights are missing or damaged.
        UsageError: there is nothing to merge, or the folder holds something already.
    """
    found = read_tuned(tuned)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not empty; name a new folder.")
    if merge and (found.adapter is None or not found.state.lm.model.startswith("local/")):
        raise UsageError(f"{tuned} has no adapter of a local/... LM, so there is nothing to merge; leave out --merge.")
    # All that may fail for the program's sake comes before anything is written.
    prompts = dict(_prompts(found))
    readme = _readme(found, tuned.stem, _served(found, tuned.stem, merge), merge)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if merge:
            _merge(found, folder / "model")
        elif found.adapter is not None:
            _copy_adapter(found, folder / "adapter")
        (folder / "program.json").write_text(_program(tuned, found, merge), encoding="utf-8")
        for name, prompt in prompts.items():
            path = folder / "prompts" / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(prompt, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(readme, encoding="utf-8")
    except OSError as error:
        raise TunedProgramError(f"{folder} cannot be written ({error}); name another folder.") from error
    return sorted(path for path in folder.rglob("*") if path.is_file())


@dataclass(frozen=True)
class _Served:
    """How the LM is served: a shell command, empty where a provider does that, and the model string to call."""

    command: str
    model: str


def _served(tuned: TunedFile, name: str, merged: bool) -> _Served:
    lm, quoted = tuned.state.lm, shlex.quote(name)
    prefix, _, model = lm.model.partition("/")
    if prefix not in ("local", "hosted_vllm"):
        weights = lm.adapter if lm.adapter is not None and not is_digest(lm.adapter) else model
        return _Served("", f"{prefix}/{weights}")
    if merged:
        return _Served(f"vllm serve ./model --served-model-name {quoted}", f"hosted_vllm/{name}")
    base = model
    if prefix == "local":
        from harness.lm.local import source_of

        base = source_of(lm.model)
    base = shlex.quote(base)
    if tuned.adapter is None:
        return _Served(f"vllm serve {base} --served-model-name {quoted}", f"hosted_vllm/{name}")
    rank = _rank(tuned.adapter)
    return _Served(
        f"vllm serve {base} --enable-lora --max-lora-rank {rank} --lora-modules {quoted}=./adapter",
        f"hosted_vllm/{name}",
    )


def _program(tuned: Path, found: TunedFile, merged: bool) -> str:
    """The tuned program's file as it reads in the exported folder: the weights lie under other names there."""
    body = json.loads(tuned.read_text(encoding="utf-8"))
    if merged:
        # With the dot it is a path, never an id of the hub.
        body["state"]["lm"] = {"model": "local/./model", "adapter": None}
        del body["adapter"]
    elif found.adapter is not None:
        body["adapter"] = "adapter"
    return json.dumps(body, indent=2, ensure_ascii=False) + "\n"


def _rank(adapter: Path) -> int:
    try:
        rank = int(json.loads((adapter / CONFIG_FILE).read_text(encoding="utf-8"))["r"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TunedProgramError(f"{adapter / CONFIG_FILE} cannot be read ({error}); save the program again.") from error
    return next((allowed for allowed in _RANKS if allowed >= rank), rank)


def _copy_adapter(tuned: TunedFile, folder: Path) -> None:
    from harness.train.adapters import Adapters

    if tuned.adapter is None or tuned.state.lm.adapter is None:
        return
    with tempfile.TemporaryDirectory() as place:  # by way of a store, which verifies the weights
        adapters = Adapters(Path(place))
        adapters.import_(tuned.adapter, tuned.state.lm.adapter)
        adapters.export(tuned.state.lm.adapter, folder)


def _merge(tuned: TunedFile, folder: Path) -> None:
    from peft import PeftModel

    from harness.lm.local import folder_of
    from harness.train.loader import load_with_transformers, quiet

    with quiet(), tempfile.TemporaryDirectory() as checked:
        _copy_adapter(tuned, Path(checked))
        loaded = load_with_transformers(folder_of(tuned.state.lm.model))
        model = PeftModel.from_pretrained(loaded.model, checked).merge_and_unload()
        model.save_pretrained(folder, safe_serialization=True)
        loaded.tokenizer.save_pretrained(folder)


def _prompts(tuned: TunedFile) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each module's turns before the last one; of modules that cannot be imported what the state says."""
    modules = _modules(tuned.program)
    for name, module in modules.items():
        prompt = tuned.state.prompt(name)
        structured = tuned.sampling.structured
        turns = [("system", system_text(module.signature, prompt.instruction, structured=structured))]
        try:
            for demo in prompt.demos:
                demo_messages = demo_turns(module.signature, demo, structured=structured)
                turns += [(turn.role, turn.content) for turn in demo_messages]
        except (KeyError, ValueError, ParseError) as error:
            raise TunedProgramError(
                f"The demos of {name} in {tuned.program} do not fit its signature any more ({_said(error)}); optimize "
                "the program again, or bring back the signature it was tuned with."
            ) from error
        yield (
            name,
            {
                "messages": [{"role": role, "content": content} for role, content in turns],
                "inputs": [field.name for field in module.signature.inputs],
                "reply": [field.name for field in module.signature.reply],
            },
        )
    for name, prompt in tuned.state.prompts.items():
        if name not in modules:
            yield name, _raw(prompt)


def _raw(prompt: Prompt) -> dict[str, Any]:
    return {
        "instruction": prompt.instruction,
        "demos": [{"inputs": dict(demo.inputs), "outputs": dict(demo.outputs)} for demo in prompt.demos],
    }


def _modules(program: str) -> Mapping[str, Module[..., Any]]:
    """The modules in reach of a program's function, by their names; empty where it cannot be imported."""
    home = program.rpartition(".")[0]
    if not home:
        return {}
    try:
        names = vars(importlib.import_module(home))
    except ImportError:
        return {}
    except Exception as error:  # a program's code may raise anything
        raise TunedProgramError(
            f"The module {home}, where the program's code is, fails when it is imported ({_said(error)}); mend that, "
            "or export where the code cannot be imported at all."
        ) from error
    return {value.signature.name: value for value in names.values() if isinstance(value, Module)}


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _readme(tuned: TunedFile, name: str, served: _Served, merged: bool) -> str:
    lm = tuned.state.lm
    function = tuned.program.rpartition(".")[2]
    lines = [f"# {name}", ""]
    lines += [f"The program `{tuned.program}`, tuned with the strategy", f"`{tuned.strategy}` on `{lm.model}`."]
    scores = {split: score for split, score in tuned.scores.items() if isinstance(score, Mapping)}
    if scores:
        lines += ["", "| split | score in % | examples |", "| --- | --- | --- |"]
        lines += [f"| {split} | {100 * score['mean']:.1f} | {score['examples']} |" for split, score in scores.items()]
    lines += ["", "## Serve", ""]
    if served.command:
        lines += ["In this folder:", "", "```sh", served.command, "```"]
    elif lm.adapter is not None:
        lines += [f"The provider keeps the tuned weights, under the name `{lm.adapter}`: there is nothing to serve."]
    else:
        lines += ["The LM is the provider's own: there is nothing to serve."]
    sampling = tuned.sampling
    local = ', api_base="http://localhost:8000/v1"' if served.command else ""
    answer = "is a JSON object with" if sampling.structured else "has a line `name: value` for"
    lines += [
        "",
        "## Call",
        "",
        "`prompts/` holds what goes before the last turn of each module; the last turn is a line `name: value` for",
        f"each of its inputs, and the answer {answer} each field of `reply`.",
        "",
        "```python",
        "import json, litellm",
        'prompt = json.load(open("prompts/MODULE.json", encoding="utf-8"))',
        'turns = [*prompt["messages"], {"role": "user", "content": "INPUT: VALUE"}]',
        f"answer = litellm.completion(model={json.dumps(served.model, ensure_ascii=False)}{local}, messages=turns,",
        f"    temperature={sampling.temperature:g}, top_p={sampling.top_p:g}, max_tokens={sampling.max_tokens})",
        "```",
        "",
        f'In Python, beside the program\'s code, `harness.load("program.json", {function})` is the tuned program as a',
        "function.",
    ]
    if merged:
        lines += [
            "It finds `model/` where Python runs in this folder; elsewhere add the folder's place:",
            '`lm="local/PATH/OF/THIS/FOLDER/model"`.',
        ]
    return "\n".join(lines) + "\n"
