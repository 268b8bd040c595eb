"""The recipe of the embedded LM: tokenizer, generators, network and training, on small cases."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from recipes.nano import checkpoint, passages, precision, stories, tokens, train, words  # noqa: E402
from recipes.nano.arithmetic import HELD_OUT, HELD_OUT_OBJECTS, TOLD, drills, problem, word_problems  # noqa: E402
from recipes.nano.batches import encode, make, other_options  # noqa: E402
from recipes.nano.episode import Episode, messages, pieces, system_text  # noqa: E402
from recipes.nano.evaluate import nearest, share  # noqa: E402
from recipes.nano.export import llama_weights, write_model  # noqa: E402
from recipes.nano.mixture import STAGES, draw  # noqa: E402
from recipes.nano.net import Net, Shape  # noqa: E402
from recipes.nano.numeric import table  # noqa: E402
from recipes.nano.symbolic import categorical, copying, typed  # noqa: E402
from recipes.nano.train import Settings, fresh, run  # noqa: E402
from recipes.nano.wiring import held, later  # noqa: E402
from suites import test_arithmetic as arithmetic_suite  # noqa: E402

FORBIDDEN = re.compile(
    r"iris|petal|sepal|setosa|versicolor|virginica|wine|cultivar|alcohol|malic|flavan|proline|malignant|benign|"
    r"concave|fractal|hotpot|gsm8k|wikipedia|natalia|weng",
    re.IGNORECASE,
)
SPELLED = re.compile(r"[^\W\d_]+")


@pytest.fixture(scope="module")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nano") / "tokenizer.json"
    tokens.build().save(str(path))
    return path


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def sample(count: int, stage: int = -1) -> list[Episode]:
    rng = Random(11)
    return [draw(rng, STAGES[stage], rng.choice([96, 256, 512])) for _ in range(count)]


def whole(episode: Episode) -> str:
    return "\n".join(message["content"] for message in messages(episode))


NUMBERS = st.one_of(
    st.integers().map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(str),
    st.decimals(allow_nan=False, allow_infinity=False, places=2).map(str),
    st.from_regex(r"0{0,3}[0-9]{1,6}(\.[0-9]{0,6})?", fullmatch=True),
)
ANY_TEXT = st.lists(
    st.one_of(
        st.text(),
        NUMBERS,
        st.sampled_from([": ", ", ", "\r\n", "\n- ", "one of ", " ", "  ", "👩‍🚀", "e\u0301", "_"]),
    )
).map("".join)


@settings(max_examples=300, deadline=None)
@given(text=ANY_TEXT)
def test_any_text_survives_the_tokenizer(tokenizer_path: Path, text: str) -> None:
    tokenizer = tokens.load(tokenizer_path)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize(
    "text", ["007", "3.14159", "1e-5", "-2", "12345", "1999", "2000", "99.9", "100.0", "a\r\nb", "🦜"]
)
def test_odd_text_survives_the_tokenizer(tokenizer_path: Path, text: str) -> None:
    tokenizer = tokens.load(tokenizer_path)
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("text", ["0.0", "5.1", "99.9", "0", "7", "42", "1999"])
def test_a_number_is_one_token_of_its_value(tokenizer_path: Path, text: str) -> None:
    tokenizer = tokens.load(tokenizer_path)
    first, values = tokens.number_values(tokenizer)
    (only,) = tokenizer.encode(text).ids
    assert values[only - first] == float(text)
    assert first + len(values) == tokenizer.get_vocab_size()


def test_a_word_is_cut_alike_wherever_it_stands(tokenizer_path: Path) -> None:
    tokenizer = tokens.load(tokenizer_path)
    bare = tokenizer.encode("Trovelmar").tokens
    assert tokenizer.encode("to Trovelmar.").tokens[-len(bare) - 1 : -1] == bare
    hint, value = tokenizer.encode("one of red, blue").tokens, tokenizer.encode("answer: red").tokens
    assert hint[1] == value[-1] == "red"


def test_pieces_are_cut_between_tokens(tokenizer_path: Path) -> None:
    tokenizer = tokens.load(tokenizer_path)
    for episode in sample(100):
        together = tokenizer.encode("".join(piece.text for piece in pieces(episode))).ids
        assert encode(tokenizer, episode)[0] == together


def test_system_text_is_what_the_harness_renders() -> None:
    episode = Episode("k", "Name it.", (("reasoning", "think step by step"), ("answer", "one of a, b")), ())
    assert system_text(episode) == "Name it.\n\nReply with:\nreasoning: think step by step\nanswer: one of a, b"
    described = Episode("k", "Name it.", (("answer", "text"),), (), (("size", "in cm"),))
    assert system_text(described) == "Name it.\n\nGiven:\nsize: in cm\n\nReply with:\nanswer: text"


def test_nothing_of_the_evaluation_data_is_generated() -> None:
    lists = [getattr(words, name) for name in dir(words) if isinstance(getattr(words, name), list)]
    assert not [word for found in lists for word in found if FORBIDDEN.fullmatch(word)]
    for stage in range(len(STAGES)):
        for episode in sample(250, stage):
            found = [word for word in SPELLED.findall(whole(episode)) if FORBIDDEN.fullmatch(word)]
            assert not found, found


def test_held_out_names_and_sentences_never_train() -> None:
    kept = set(words.HELD_OUT_COMMON) | set(words.HELD_OUT_QUANTITIES) | set(words.HELD_OUT_PARTS)
    assert not kept & (set(words.COMMON) | set(words.QUANTITIES) | set(words.PARTS))
    assert not set(words.HELD_OUT_FIRST_NAMES) & set(words.FIRST_NAMES)
    rng = Random(3)
    starts = tuple(words.HELD_OUT_BEGINNINGS)
    assert not [word for word in (words.invented(rng) for _ in range(5000)) if word.startswith(starts)]
    held = [re.escape(sentence) for sentences in HELD_OUT.values() for sentence in sentences]
    pattern = re.compile("|".join(re.sub(r"\\{\w\\}", r"\\S+", sentence) for sentence in held))
    name = {relation: key for key, relation in passages.RELATIONS.items()}
    for _ in range(500):
        assert not pattern.search(problem(rng, rng.randint(1, 3)).text)
        assert pattern.search(problem(rng, 2, held_out=True).text)
        link, kept_link = passages.chain(rng, False, False), passages.chain(rng, True, True)
        assert (name.get(link.first), name.get(link.second)) not in passages.HELD_OUT_PAIRS
        assert (name.get(kept_link.first), name.get(kept_link.second)) in passages.HELD_OUT_PAIRS


def bare(template: str) -> str:
    """A sentence without people, things and numbers, in lower case."""
    return re.sub(r"\{[nmoab]\}", "_", template).casefold().strip(" .?:")


def spelled(template: str) -> list[str]:
    """A template with each of the verbs that it may take."""
    made = [template]
    for name, verbs in stories.VERBS.items():
        made = [made_up for text in made for made_up in {text.replace(f"{{{name}}}", verb) for verb in verbs}]
    return made


SENTENCES = {
    "starts": stories.STARTS,
    "plus": stories.PLUS,
    "minus": stories.MINUS,
    "times": stories.TIMES,
    "divide": stories.DIVIDE,
    "rates": stories.RATES,
    "sums": stories.SUMS,
    "asks": stories.ASKS,
    "share asks": stories.SHARE_ASKS,
}


def test_no_verb_or_phrase_makes_a_held_out_sentence() -> None:
    made = {bare(text) for found in SENTENCES.values() for template in found for text in spelled(template)}
    made |= {bare(text) for text in TOLD}
    leads = ["", *(phrase.casefold() for phrase in stories.LINKS + stories.WHEN)]
    tails = ["", *(phrase.casefold() for phrase in stories.WHERE)]
    suite = arithmetic_suite
    kept = [sentence for sentences in HELD_OUT.values() for sentence in sentences]
    kept += [*suite.OPENINGS, *suite.GAINS, *suite.LOSSES, *suite.QUESTIONS]
    for sentence in map(bare, kept):
        rests = {sentence.removeprefix(lead).removesuffix(tail) for lead in leads for tail in tails}
        assert not rests & made, sentence
    assert not set(stories.OBJECTS) & {*HELD_OUT_OBJECTS, *suite.THINGS, *words.HELD_OUT_COMMON}


def test_a_sentence_tells_one_thing() -> None:
    """No step can be read as two operations, and each sentence has the numbers that its list needs."""
    steps: dict[str, str] = {}
    for kind, templates in SENTENCES.items():
        assert len(set(templates)) == len(templates), kind
        numbers = {"starts": "a", "rates": "ab", "sums": "ab", "asks": "", "share asks": ""}.get(kind, "b")
        for template in templates:
            assert sorted(re.findall(r"\{([ab])\}", template)) == list(numbers), template
            if numbers == "b":
                for text in spelled(template):
                    assert steps.setdefault(text.casefold(), kind) == kind, text


def test_reasoning_computes_the_answer() -> None:
    rng = Random(5)
    for make_one in (drills, word_problems):
        for _ in range(200):
            for turn in make_one(rng, 3).turns:
                fields = dict(turn.outputs)
                running = None
                for left, op, right, result in re.findall(
                    r"(\d+) ([-+*/]) (\d+) = (\d+)\.", str(fields.get("reasoning", ""))
                ):
                    assert running is None or left == running
                    assert eval(f"{left} {op} {right}") == int(result)  # noqa: S307 - digits and one operator
                    running = result
                assert running is None or running == str(fields["answer"])


@pytest.mark.parametrize("build", [categorical, copying, typed, passages.passages])
def test_replies_name_the_outputs(build: Callable[..., Episode]) -> None:
    rng = Random(7)
    for _ in range(200):
        episode = build(rng, 4)
        for turn in episode.turns:
            assert [name for name, _ in turn.outputs] == [name for name, _ in episode.reply]


def test_numeric_labels_follow_from_the_numbers() -> None:
    rng = Random(9)
    made = [table(rng, 13, features=4, classes=3) for _ in range(200)]
    assert sum(nearest(one) for one in made) / len(made) > 0.85
    firsts = [table(rng, 1, features=2, classes=3) for _ in range(900)]
    places = [
        one.episode.reply[0][1].removeprefix("one of ").split(", ").index(str(one.episode.turns[0].outputs[0][1]))
        for one in firsts
    ]
    assert all(0.27 < places.count(place) / 900 < 0.4 for place in range(3))


def test_batches_repeat(tokenizer_path: Path) -> None:
    tokenizer = tokens.load(tokenizer_path)
    one, same, other = (make(tokenizer, 0, step, 2, 1024) for step in (4, 4, 5))
    assert (one.ids == same.ids).all()
    assert (one.weights == same.weights).all()
    assert one.ids.shape != other.ids.shape or (one.ids != other.ids).any()


@pytest.mark.parametrize("heads", [2, 3])
def test_the_trained_net_is_the_exported_llama(tokenizer_path: Path, tmp_path: Path, heads: int) -> None:
    from transformers import AutoModelForCausalLM

    tokenizer = tokens.load(tokenizer_path)
    first, values = tokens.number_values(tokenizer)
    torch.manual_seed(1)
    net = Net(Shape(first, len(values), width=64, layers=3, heads=heads, upper_heads=1, inner=96), values)
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(torch.randn_like(weight) * 0.02)
    write_model(net, tokenizer_path, tmp_path)
    llama = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    exact = llama_weights(net)
    assert all(torch.equal(llama.state_dict()[name], weight.bfloat16().float()) for name, weight in exact.items())
    llama.load_state_dict(exact, strict=False)
    ids = torch.randint(0, net.shape.vocabulary, (3, 150))
    with torch.no_grad():
        assert torch.allclose(llama(ids).logits.flatten(0, 1), net(ids), atol=2e-4)


def test_training_lowers_the_loss_and_resumes_equal(tokenizer_path: Path, tmp_path: Path) -> None:
    def settings_for(every: int) -> Settings:
        return Settings(steps=20, budget=768, layers=3, hold=0.5, every=every, matrix_rate=0.04, other_rate=0.01)

    def quiet(_: str) -> None:
        return None

    at_once = run(tmp_path / "once", tokenizer_path, settings_for(20), quiet)
    assert sum(at_once.losses[-5:]) < sum(at_once.losses[:5]) - 0.5

    class Stopped(Exception):
        pass

    real = checkpoint.save

    def save_and_stop(*arguments: object) -> None:
        real(*arguments)  # type: ignore[arg-type]
        raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", save_and_stop)
        with pytest.raises(Stopped):
            run(tmp_path / "twice", tokenizer_path, settings_for(10), quiet)
    before, half = fresh(tokenizer_path, settings_for(20))[0], checkpoint.load(tmp_path / "twice")[0]
    resumed = run(tmp_path / "twice", tokenizer_path, settings_for(10), quiet)
    assert resumed.losses == at_once.losses
    once, twice = (checkpoint.load(tmp_path / name)[0].state_dict() for name in ("once", "twice"))
    assert all(torch.equal(once[name], twice[name]) for name in once)
    for name, mask in held(before.shape).items():
        first, middle = (dict(net.named_parameters())[name] for net in (before, half))
        mask = mask.expand_as(first)
        assert torch.equal(middle[mask], first[mask]), name
        assert not torch.equal(middle[~mask], first[~mask]), name
        assert torch.equal(once[name][mask], first[mask]) == (not later(name)), name


def test_wired_heads_find_the_demo_with_the_same_word(tokenizer_path: Path) -> None:
    """Before any training, the probability of the class that a word meant in the demos rises where it is asked for."""
    net = fresh(tokenizer_path, Settings(steps=1))[0]
    tokenizer, rng, better = tokens.load(tokenizer_path), Random(13), []
    while len(better) < 100:
        episode = categorical(rng, 9, easy=True)
        values = [str(turn.inputs[0][1]) for turn in episode.turns]
        labels = [str(turn.outputs[0][1]) for turn in episode.turns]
        meant = dict(zip(values[:-1], labels[:-1], strict=True)).get(values[-1])
        others = set(labels) - {meant}
        if len(episode.turns[0].inputs) > 1 or meant is None or not others:
            continue
        ids, _, starts = encode(tokenizer, episode)
        with torch.no_grad():
            logits = net(torch.tensor([ids[: starts[-1]]]))[-1]
        first = {label: logits[tokenizer.encode(label).ids[0]] for label in {meant, *others}}
        better.append(all(first[meant] > first[other] for other in others))
    assert sum(better) / len(better) > 0.5


def test_an_answer_that_nothing_tells_is_taught_as_every_option(tokenizer_path: Path) -> None:
    tokenizer, rng = tokens.load(tokenizer_path), Random(15)
    for _ in range(100):
        episode = draw(rng, STAGES[2], 128)
        found = other_options(tokenizer, episode)
        if episode.kind.startswith(("numeric", "categorical")):
            options = episode.reply[-1][1].removeprefix("one of ").split(", ")
            options.remove(str(episode.turns[0].outputs[-1][1]))
            assert found == [tokenizer.encode(option).ids[0] for option in options]
        else:
            assert not found
    assert not other_options(tokenizer, table(rng, 4, features=1).episode)


def test_options_that_are_as_good_share_the_weight_of_the_answer(tokenizer_path: Path) -> None:
    tokenizer = tokens.load(tokenizer_path)
    batch = next(
        made
        for step in range(50)
        if len((made := make(tokenizer, 0, step, 2, 4096)).others) and made.ids.shape[1] < 130
    )
    settings = Settings(steps=1, layers=3)
    net = train.fresh(tokenizer_path, settings)[0]
    with torch.no_grad():
        logs = torch.log_softmax(net(torch.from_numpy(batch.ids)[:, :-1].contiguous()).float(), -1)
    logs = logs.view(len(batch.ids), -1, logs.shape[-1])
    lost = total = 0.0
    for row, ids in enumerate(batch.ids):
        for column, weight in enumerate(batch.weights[row]):
            if weight:
                lost -= weight * logs[row, column - 1, ids[column]].item()
                total += weight
    for row, column, token in batch.others:
        lost -= batch.weights[row, column] * logs[row, column - 1, token].item()
        total += batch.weights[row, column]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "native", lambda _: torch.float32)
        assert train.loss_and_hits(net, batch, settings)[0].item() == pytest.approx(lost / total, rel=1e-4)


def test_products_are_in_bfloat16_only_where_there_are_instructions_for_it(
    tokenizer_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert precision.native(torch.device("cuda")) == torch.bfloat16
    settings = Settings(steps=1, layers=3)
    net, _, _ = train.fresh(tokenizer_path, settings)
    batch = make(tokens.load(tokenizer_path), 0, 0, 0, 256)
    losses = []
    for chosen in (torch.float32, torch.bfloat16):
        monkeypatch.setattr(train, "native", lambda _, chosen=chosen: chosen)
        losses.append(train.loss_and_hits(net, batch, settings)[0].item())
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert precision.native(torch.device("cpu")) == torch.float32


def test_intervals_hold_the_share() -> None:
    found = share([True] * 90 + [False] * 10)
    assert found.share == 0.9
    assert found.low == pytest.approx(0.826, abs=1e-3)
    assert found.high == pytest.approx(0.945, abs=1e-3)
