"""``python -m recipes.nano``: tokenizer, train, evaluate, export."""

from __future__ import annotations

import argparse
from pathlib import Path


def main(arguments: list[str] | None = None) -> None:
    """Run one stage of the recipe."""
    parser = argparse.ArgumentParser(prog="python -m recipes.nano", description="Make the embedded LM.")
    parser.add_argument("--out", type=Path, default=Path("build/nano"), help="where checkpoints and curves go")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("tokenizer", help="learn the tokenizer")
    train = commands.add_parser("train", help="pre-train, or go on where the last run stopped")
    train.add_argument("--steps", type=int, default=14500)
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--tokens", type=int, default=4096, help="tokens of one step")
    train.add_argument("--decay", type=float, default=0.9, help="share of the steps with a falling learning rate")
    train.add_argument("--hold", type=float, default=0.35, help="share of the steps for which wired circuits are held")
    train.add_argument("--device", default="cpu")
    train.add_argument("--threads", type=int, default=1)
    train.add_argument("--compile", action="store_true", help="fuse operations: faster, where there is a C++ compiler")
    train.add_argument("--every", type=int, default=200, help="steps between checkpoints")
    evaluate = commands.add_parser("evaluate", help="print the table of results with 95%% intervals")
    evaluate.add_argument("--model", type=Path, default=Path("harness/models/nano"))
    evaluate.add_argument("--episodes", type=int, default=200)
    export = commands.add_parser("export", help="write the model folder from the last checkpoint")
    export.add_argument("--model", type=Path, default=Path("harness/models/nano"))
    chosen = parser.parse_args(arguments)
    tokenizer = chosen.out / "tokenizer.json"
    if chosen.command == "tokenizer":
        from recipes.nano import tokens

        chosen.out.mkdir(parents=True, exist_ok=True)
        made = tokens.build()
        made.save(str(tokenizer))
        print(f"{made.get_vocab_size()} tokens")
    elif chosen.command == "train":
        import torch

        from recipes.nano.train import Settings, run

        torch.set_flush_denormal(True)  # sharp attention leaves many tiny shares, which CPUs are slow with
        settings = Settings(
            chosen.steps,
            chosen.seed,
            chosen.tokens,
            chosen.decay,
            chosen.hold,
            chosen.device,
            chosen.threads,
            chosen.every,
            chosen.compile,
        )
        run(chosen.out, tokenizer, settings, lambda line: print(line, flush=True))
    elif chosen.command == "evaluate":
        from recipes.nano.evaluate import report

        print(report(chosen.model, chosen.episodes))
    else:
        from recipes.nano.export import export_model

        export_model(chosen.out, tokenizer, chosen.model)


if __name__ == "__main__":
    main()
