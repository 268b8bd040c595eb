"""A vLLM server beside the run: adapters are loaded into it, called by name and unloaded; weights are tuned here."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import AdapterError, ConnectionFailedError, UnknownModelError, UsageError
from harness.lm.client import Client
from harness.lm.endpoint import Endpoint
from harness.lm.providers import make_provider_factory
from harness.lm.request import LMRef, Message, Request
from harness.lm.retry import RetryPolicy
from harness.lm.table import endpoints_from
from harness.lm.vllm import VllmProvider
from harness.observe import NullObserver
from harness.runtime import Runtime
from harness.train.adapters import Adapters
from harness.train.job import ChatExample, LoraSettings, TrainingJob, TrainingResult
from tests.fake_vllm import FakeVllm, answer
from tests.simulated import write_adapter
from tests.test_local_engine import make_adapter
from tests.tiny_llama import make_tiny_llama

MODEL = "hosted_vllm/base"


@pytest.fixture
def server() -> Iterator[FakeVllm]:
    with FakeVllm(answer=answer) as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("model") / "tiny", hidden=32, heads=2, kv_heads=1, layers=1)


@pytest.fixture(scope="module")
def adapters(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Adapters:
    kept = Adapters(tmp_path_factory.mktemp("kept") / "adapters")
    for seed in range(6):
        make_adapter(folder, kept, seed)
    return kept


@pytest.fixture(scope="module")
def digests(adapters: Adapters) -> list[str]:
    return sorted(path.name for path in adapters.folder.iterdir())


def client_of(
    server: FakeVllm, adapters: Adapters | None, *, max_loras: int = 2, base_url: str | None = None
) -> Client:
    async def sleep(_: float) -> None:
        await asyncio.sleep(0)

    endpoint = Endpoint(base_url or server.base_url, timeout=10, max_loras=max_loras)
    factory = make_provider_factory({MODEL: endpoint}, adapters=adapters)
    return Client(None, factory, sleep=sleep, retry=RetryPolicy(attempts=3))


def request(adapter: str | None, text: str = "hi") -> Request:
    return Request(LMRef(MODEL, adapter), (Message("user", text),))


def say(client: Client, adapter: str | None, text: str = "hi") -> str:
    return client.call(request(adapter, text)).completion.text


def test_an_adapter_is_loaded_once_and_called_by_its_name(
    server: FakeVllm, adapters: Adapters, digests: list[str]
) -> None:
    with client_of(server, adapters) as client:
        assert say(client, None) == "base says hi"
        assert server.events == []
        waiting = [client.submit(request(digests[0], f"{number}")) for number in range(20)]
        texts = [future.result().completion.text for future in waiting]
        assert texts == [f"{digests[0][:12]} says {number}" for number in range(20)]
        assert server.events == [("load", digests[0])]
        assert server.loaded == {digests[0]: str(adapters.path(digests[0]).resolve())}
    assert server.events == [("load", digests[0]), ("unload", digests[0])], "what this process loaded leaves with it"


def test_the_adapter_used_least_recently_makes_room(server: FakeVllm, adapters: Adapters, digests: list[str]) -> None:
    first, second, third = digests[:3]
    with client_of(server, adapters) as client:
        for number, adapter in enumerate((first, second, first, third)):
            say(client, adapter, f"{number}")
        assert server.events == [("load", first), ("load", second), ("unload", second), ("load", third)]
        say(client, second, "again")
        assert server.events[-2:] == [("unload", first), ("load", second)]


def test_adapters_with_calls_under_way_stay(server: FakeVllm, adapters: Adapters, digests: list[str]) -> None:
    server.delay = 0.1
    with client_of(server, adapters, max_loras=1) as client:
        waiting = [client.submit(request(digest, f"{n}")) for n in range(4) for digest in digests[:4]]
        assert {future.result().completion.text[:12] for future in waiting} == {digest[:12] for digest in digests[:4]}
        assert all(kind == "load" for kind, _ in server.events)
        say(client, digests[0], "last")
        say(client, digests[4], "other")
        assert list(server.loaded) == [digests[4]]


def test_a_restarted_server_is_given_its_adapters_again(
    server: FakeVllm, adapters: Adapters, digests: list[str]
) -> None:
    with client_of(server, adapters) as client:
        say(client, digests[0])
        server.restart()
        waiting = [client.submit(request(digests[0], f"{number}")) for number in range(20)]
        assert all(future.result().completion.text.startswith(digests[0][:12]) for future in waiting)
        assert server.events == [("load", digests[0]), ("restart", ""), ("load", digests[0])]
        assert client.stats().retried == 0


def test_an_adapter_that_is_there_already_is_used(server: FakeVllm, adapters: Adapters, digests: list[str]) -> None:
    server.loaded[digests[0]] = "loaded by another process"
    with client_of(server, adapters) as client:
        assert say(client, digests[0]) == f"{digests[0][:12]} says hi"
        for digest in digests[1:4]:
            say(client, digest)
        assert ("unload", digests[1]) in server.events, "there was need for room"
    assert digests[0] in server.loaded, "it is left to whoever loaded it"


def test_replies_that_can_be_listed_are_chosen_among(server: FakeVllm, adapters: Adapters) -> None:
    with client_of(server, adapters) as client:
        client.call(replace(request(None), choices=("species: setosa", "species: virginica")))
        client.call(request(None))
    chosen, free = server.requests
    assert chosen["structured_outputs"] == {"choice": ["species: setosa", "species: virginica"]}
    assert "structured_outputs" not in free


def test_a_model_that_is_unknown_stays_unknown(server: FakeVllm, adapters: Adapters) -> None:
    server.base = "another"
    with client_of(server, adapters) as client, pytest.raises(UnknownModelError, match="does not exist"):
        say(client, None)


def test_an_adapter_the_server_refuses(server: FakeVllm, adapters: Adapters, digests: list[str]) -> None:
    server.highest_rank = 1
    with client_of(server, adapters) as client:
        with pytest.raises(AdapterError, match=r"rank \d is greater than max_lora_rank 1.*--max-lora-rank"):
            say(client, digests[0])
        server.highest_rank = 16
        assert say(client, digests[0]) == f"{digests[0][:12]} says hi", "the next call tries again"


def test_a_server_without_runtime_updates(adapters: Adapters, digests: list[str]) -> None:
    refused = pytest.raises(AdapterError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING=True")
    with FakeVllm(answer=answer, allows=False) as server, client_of(server, adapters) as client, refused:
        say(client, digests[0])


def test_a_server_that_is_down(server: FakeVllm, adapters: Adapters, digests: list[str]) -> None:
    with client_of(server, adapters, base_url="http://127.0.0.1:9/v1") as client:
        with pytest.raises(ConnectionFailedError, match="is the server up"):
            say(client, digests[0])
        assert client.stats().retried == 2


def test_a_password_in_the_base_url_is_refused_not_ignored(server: FakeVllm) -> None:
    url = server.base_url.replace("127", "user:hunter2secret@127")
    with (
        client_of(server, None, base_url=url) as client,
        pytest.raises(UsageError, match=r"base URL of hosted_vllm/base holds a user name.*openai/\.\.\.") as caught,
    ):
        say(client, None)
    assert "hunter2secret" not in str(caught.value)
    assert server.requests == []


def test_a_base_url_without_its_version(server: FakeVllm, adapters: Adapters) -> None:
    provider = VllmProvider(MODEL, Endpoint(server.base_url.removesuffix("/v1") + "/"), adapters)
    assert provider._root() == server.base_url


def test_weights_are_tuned_beside_the_server(server: FakeVllm, folder: Path, tmp_path: Path) -> None:
    adapters = Adapters(tmp_path / "adapters")
    table = endpoints_from({MODEL: {"base_url": server.base_url, "weights": str(folder)}})
    examples = (ChatExample((Message("user", "petal_length: 1.4"),), "species: setosa"),)
    settings = LoraSettings(rank=2, epochs=1, min_steps=2, batch_size=1)
    with Client(None, make_provider_factory(table, adapters=adapters)) as client:
        provider = client.provider(MODEL)
        assert isinstance(provider, VllmProvider)
        first = provider.train(TrainingJob(LMRef(MODEL), examples, settings, 0), adapters)
        second = provider.train(TrainingJob(LMRef(MODEL, first.adapter), examples, settings, 0), adapters)
        assert first.adapter != second.adapter
        assert say(client, second.adapter) == f"{second.adapter[:12]} says hi"
    assert '"local/tiny"' in (adapters.path(first.adapter) / "adapter_config.json").read_text()


def test_other_weights_are_another_lm(server: FakeVllm, folder: Path, tmp_path: Path) -> None:
    def identity(weights: str | None) -> str:
        return VllmProvider(MODEL, Endpoint(server.base_url, weights=weights)).identity()

    other = make_tiny_llama(tmp_path / "other", hidden=32, heads=2, kv_heads=1, layers=1, seed=1)
    assert len({identity(None), identity(str(folder)), identity(str(other)), identity("somebody/their-model")}) == 4
    assert identity("somebody/their-model").endswith("weights=somebody/their-model")
    with pytest.raises(UnknownModelError, match="there is no folder"):
        identity(str(tmp_path / "nowhere"))


def test_a_server_that_moved_is_not_tuned_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = (ChatExample((Message("user", "petal_length: 1.4"),), "species: setosa"),)
    job = TrainingJob(LMRef(MODEL), examples, LoraSettings(), 0)
    (tmp_path / "made").mkdir()
    write_adapter(tmp_path / "made", "w")

    def train(_self: object, _job: TrainingJob, adapters: Adapters, *_: object) -> TrainingResult:
        return TrainingResult(adapters.adopt(tmp_path / "made"), 1, 1, 1, (), 0.0)

    def cached(url: str, weights: Path) -> bool:
        table = endpoints_from({MODEL: {"base_url": url, "weights": str(weights)}})
        with Runtime.open(tmp_path / "store", endpoints=table) as runtime:
            return runtime.train(job, "w", NullObserver()).cached

    monkeypatch.setattr(VllmProvider, "train", train)
    other = make_tiny_llama(tmp_path / "other", hidden=32, heads=2, kv_heads=1, layers=1, seed=1)
    assert not cached("http://one:8000/v1", folder)
    assert cached("http://two:8000/v1", folder)
    assert not cached("http://two:8000/v1", other)


def test_without_weights_nothing_can_be_tuned(server: FakeVllm, tmp_path: Path) -> None:
    provider = VllmProvider(MODEL, Endpoint(server.base_url))
    with pytest.raises(UsageError, match='weights = "<hub id or path>"'):
        provider.train(TrainingJob(LMRef(MODEL), (), LoraSettings(), 0), Adapters(tmp_path))
