"""The heads that the embedded LM's recipe sets up by hand: what they look at, and what training leaves of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

torch = pytest.importorskip("torch")

from tokenizers import Tokenizer  # noqa: E402

from recipes.nano import checkpoint, circuits, tokens, train  # noqa: E402
from recipes.nano.attention import causal  # noqa: E402
from recipes.nano.batches import encode, even  # noqa: E402
from recipes.nano.codes import codes  # noqa: E402
from recipes.nano.episode import Episode, Turn  # noqa: E402
from recipes.nano.export import write_model  # noqa: E402
from recipes.nano.grow import held, widened  # noqa: E402
from recipes.nano.layout import COMPARED, NEAR  # noqa: E402
from recipes.nano.mixture import AFTERWARDS  # noqa: E402
from recipes.nano.net import Block, Net, after_attention, attention_inputs  # noqa: E402
from recipes.nano.numeric import table  # noqa: E402
from recipes.nano.restore import grow_model, refit_model, restored  # noqa: E402
from recipes.nano.train import Settings, run  # noqa: E402

SHIPPED = Path(__file__).parent.parent / "harness" / "models" / "nano"
LAYERS = 4
"""As many as these heads need."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nano") / "tokenizer.json"
    tokens.build().save(str(path))
    return path


@pytest.fixture(scope="module")
def old(tokenizer_path: Path) -> Net:
    net, _, _ = train.fresh(tokenizer_path, Settings(steps=1, layers=LAYERS))
    return net


@pytest.fixture(scope="module")
def net() -> Net:
    """The one that ships: what these heads look for is set up for the sizes that a trained network's stream has."""
    return restored(SHIPPED)


def shipped_tokenizer() -> Tokenizer:
    return tokens.load(SHIPPED / "tokenizer.json")


def shares(net: Net, ids: list[int], layer: int, head: int) -> list[float]:
    """Where a head looks from the last of the tokens."""
    hidden, length = net.embedding()[torch.tensor([ids])], len(ids)
    for index, block in enumerate(net.blocks):
        assert isinstance(block, Block)
        qkv, out, gate_up, down, before, after = block.parameters()
        inputs = attention_inputs(hidden, qkv, before, net.cosines[:length], net.sines[:length], net.shape.epsilon)
        if index == layer:
            query, key, _ = inputs
            scores = key[0, head] @ query[0, head, -1] / math.sqrt(net.shape.head)
            return scores.softmax(-1).tolist()
        hidden = after_attention(hidden, causal(*inputs), out, after, gate_up, down, net.shape.epsilon)
    raise AssertionError(layer)


def episode(values: list[str], labels: list[str], field: str = "color") -> Episode:
    turns = tuple(Turn(((field, value),), (("answer", label),)) for value, label in zip(values, labels, strict=True))
    return Episode("test", "Sort each thing.", (("answer", "one of " + ", ".join(sorted(set(labels)))),), turns)


def begun(made: Episode) -> tuple[list[int], list[int]]:
    """The tokens up to where the last answer begins, and the places where the demos' answers begin."""
    ids, _, starts = encode(shipped_tokenizer(), made)
    return ids[: starts[-1]], starts[:-1]


@torch.no_grad()
def test_a_wider_network_computes_the_same(old: Net, tokenizer_path: Path) -> None:
    values = tokens.number_values(tokens.load(tokenizer_path))[1]
    ids = torch.randint(0, old.shape.vocabulary, (2, 60), generator=torch.Generator().manual_seed(0))
    wide = widened(old, values)
    assert wide.shape.width == old.shape.width + wide.shape.owned
    assert torch.allclose(wide(ids), old(ids), atol=5e-3)


def test_parts_of_codes_are_as_long_for_every_word(old: Net, tokenizer_path: Path) -> None:
    known = codes(widened(old, tokens.number_values(tokens.load(tokenizer_path))[1]))
    compared = known.token[: old.shape.words] @ known.mix.T
    for part in (slice(0, NEAR), slice(NEAR, COMPARED)):
        lengths = compared[:, part].norm(dim=1)
        assert torch.allclose(lengths, lengths.mean().expand_as(lengths), rtol=1e-3)


def test_close_numbers_have_close_codes(old: Net, tokenizer_path: Path) -> None:
    tokenizer = tokens.load(tokenizer_path)
    known = codes(widened(old, tokens.number_values(tokenizer)[1]))
    first, second, third = (
        known.token[tokens.token_id(tokenizer, text)] @ known.mix.T for text in ("5.1", "5.3", "48")
    )
    assert torch.dist(first, second) < 0.5 * torch.dist(first, third)


@pytest.mark.parametrize(
    "values",
    [
        ["red", "blue", "green", "blue"],
        ["red maple", "old oak", "small fish", "old oak"],
        ["3.1", "40.2", "9.9", "39.5"],
    ],
    ids=["words", "two words", "numbers"],
)
@torch.no_grad()
def test_a_head_looks_at_the_answer_of_the_likest_demo(net: Net, values: list[str]) -> None:
    ids, starts = begun(episode(values, ["cat", "dog", "bird", "dog"]))
    looks = shares(net, ids, 3, circuits.LIKE)
    assert looks[starts[1]] > 0.9, [looks[start] for start in starts]


@torch.no_grad()
def test_it_rests_where_no_options_are_listed(net: Net) -> None:
    made = episode(["red", "blue", "green", "blue"], ["cat", "dog", "bird", "dog"])
    free = Episode(made.kind, made.instruction, (("answer", "text"),), made.turns)
    ids, _ = begun(free)
    assert shares(net, ids, 3, circuits.LIKE)[0] > 0.9


@torch.no_grad()
def test_without_demos_a_head_looks_at_the_options(net: Net) -> None:
    made = Episode("test", "Sort it.", (("answer", "one of cat, dog, bird"),), episode(["red"], ["cat"]).turns)
    ids, _ = begun(made)
    looks = shares(net, ids, 2, circuits.OPTIONS)
    options = [looks[ids.index(tokens.token_id(shipped_tokenizer(), word))] for word in ("cat", "dog", "bird")]
    assert sum(options) > 0.9


@torch.no_grad()
def test_a_label_that_is_begun_is_gone_on_with_as_the_likest_demo_does(net: Net) -> None:
    tokenizer = shipped_tokenizer()
    made = episode(["red", "blue", "green", "blue"], ["big cat", "big dog", "big bird", "big dog"])
    ids, starts = begun(made)
    ids.append(tokens.token_id(tokenizer, "big"))
    looks = shares(net, ids, 3, circuits.ONWARD)
    assert looks[starts[1] + 1] > 0.8, [looks[start + 1] for start in starts]


@torch.no_grad()
def test_an_option_that_is_begun_is_gone_on_with_where_there_are_no_demos(net: Net) -> None:
    tokenizer = shipped_tokenizer()
    made = Episode(
        "test", "Sort it.", (("answer", "one of big cat, old dog, small bird"),), episode(["x"], ["y"]).turns
    )
    ids, _ = begun(made)
    ids.append(tokens.token_id(tokenizer, "old"))
    assert shares(net, ids, 3, circuits.ONWARD)[ids.index(tokens.token_id(tokenizer, "\u0120dog"))] > 0.8


@torch.no_grad()
def test_what_the_user_wrote_is_gone_on_with(net: Net) -> None:
    tokenizer = shipped_tokenizer()
    asked = ["Who wrote big forest", "Who made small river", "Who saw big lamp"]
    turns = tuple(Turn((("question", text),), (("query", text.split(" ", 2)[2]),)) for text in asked)
    ids, _ = begun(Episode("test", "Write a query.", (("query", "text"),), turns))
    ids.append(tokens.token_id(tokenizer, "big"))
    looks = shares(net, ids, 2, circuits.REPEAT)
    place = len(ids) - 1 - ids[::-1].index(tokens.token_id(tokenizer, "\u0120lamp"))
    assert looks[place] > 0.5


def test_training_changes_what_heads_write_but_not_where_they_look(
    old: Net, tokenizer_path: Path, tmp_path: Path
) -> None:
    model, folder = tmp_path / "model", tmp_path / "grown"
    write_model(old, tokenizer_path, model)
    grow_model(model, folder, folder / "tokenizer.json")
    before, _, _ = checkpoint.load(folder)
    settings = Settings(steps=3, budget=512, every=3, matrix_rate=0.05, other_rate=0.01)
    progress = run(folder, folder / "tokenizer.json", settings, lambda _: None)
    assert progress.stages == [(0, AFTERWARDS)]
    after = dict(checkpoint.load(folder)[0].named_parameters())
    masks = held(before.shape)
    for name, weight in before.named_parameters():
        changed = (weight != after[name]).expand_as(weight)
        if name.startswith(("words", "number", "blocks.0")):
            assert not changed.any(), name
        elif name in masks:
            mask = masks[name].expand_as(weight)
            assert not changed[mask].any(), name
            assert changed[~mask].any(), name
    head, inside = before.shape.head, before.shape.heads * before.shape.head
    for layer, heads in circuits.COPYING.items():
        qkv = f"blocks.{layer}.qkv"
        changed = dict(before.named_parameters())[qkv] != after[qkv]
        for index in heads:
            rows = slice(2 * inside + index * head, 2 * inside + (index + 1) * head)
            assert changed[rows].any(), (layer, index)


@torch.no_grad()
def test_heads_are_set_up_anew_in_a_trained_network(old: Net, tokenizer_path: Path, tmp_path: Path) -> None:
    write_model(old, tokenizer_path, tmp_path / "model")
    grow_model(tmp_path / "model", tmp_path / "fresh", tmp_path / "fresh" / "tokenizer.json")
    fresh = checkpoint.load(tmp_path / "fresh")[0]
    trained, optimizer, progress = checkpoint.load(tmp_path / "fresh")
    for weight in trained.parameters():
        weight.add_(1.0)
    checkpoint.save(tmp_path / "trained", trained, optimizer, progress, tokens.number_values(shipped_tokenizer())[1])
    (tmp_path / "trained" / "tokenizer.json").write_bytes((tmp_path / "fresh" / "tokenizer.json").read_bytes())
    refit_model(tmp_path / "trained", tmp_path / "fresh", 2.0, tmp_path / "made")
    made, _, progress = checkpoint.load(tmp_path / "made")
    assert progress.step == 0
    masks, width, head = held(made.shape), old.shape.width, made.shape.head
    for name in ("blocks.1.qkv", "blocks.3.qkv", "blocks.1.gate_up"):
        weight, mask = made.get_parameter(name), masks[name].expand_as(made.get_parameter(name))
        assert torch.equal(weight[mask], fresh.get_parameter(name)[mask])
        assert torch.equal(weight[~mask], trained.get_parameter(name)[~mask])
    assert torch.equal(made.words[:, width:], fresh.words[:, width:])
    assert torch.equal(made.words[:, :width], trained.words[:, :width])
    for index in range(made.shape.heads):
        rows, columns = slice(width), slice(index * head, (index + 1) * head)
        times = 2.0 if index in circuits.COPYING[circuits.DEMOS] else 1.0
        written = trained.blocks[circuits.DEMOS].out[rows, columns]
        assert torch.equal(made.blocks[circuits.DEMOS].out[rows, columns], times * written)


@torch.no_grad()
def test_an_exported_network_is_restored(old: Net, tokenizer_path: Path, tmp_path: Path) -> None:
    write_model(old, tokenizer_path, tmp_path)
    again = restored(tmp_path)
    ids = torch.randint(0, old.shape.vocabulary, (2, 40), generator=torch.Generator().manual_seed(0))
    assert again.shape == old.shape
    assert (again(ids) - old(ids)).abs().mean() < 0.01  # stored in half precision


def test_without_demos_every_option_is_an_answer() -> None:
    rng = Random(0)
    alone = table(rng, 1, features=2, classes=3).episode
    made = even(rng, alone)
    options = alone.reply[-1][1].removeprefix("one of ").split(", ")
    assert sorted(str(one.turns[0].outputs[-1][1]) for one in made) == sorted(options)
    assert {one.turns[0].inputs for one in made} == {alone.turns[0].inputs}
    demos = table(rng, 3, features=2, classes=3).episode
    assert even(rng, demos) == [demos]
