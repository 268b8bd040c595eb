"""Several rollouts of one call in one request."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from harness.errors import InvalidRequestError
from harness.lm.client import Client
from harness.lm.endpoint import Endpoint
from harness.lm.providers import make_provider_factory
from harness.lm.request import LMRef, Message, Request, Sampling
from tests.http_lm import Body, HttpLM
from tests.http_parity import SMALL_SUITE, parity_answer

HOT = Request(LMRef("openai/m"), (Message("user", "hi"),), Sampling(temperature=1.0), rollout=1, ahead=2)


def seeded_answer(body: Body) -> str:
    return f"sample {body['seed']}"


@pytest.fixture
def server() -> Iterator[HttpLM]:
    with HttpLM(answer=seeded_answer) as running:
        yield running


def client_of(server: HttpLM, **settings: Any) -> Client:
    return Client(None, make_provider_factory({"openai/*": Endpoint(server.base_url, timeout=10, **settings)}))


def test_the_rollouts_ahead_come_with_the_first(server: HttpLM) -> None:
    with client_of(server) as client:
        first = client.call(HOT)
        later = [client.call(replace(HOT, rollout=2, ahead=1)), client.call(replace(HOT, rollout=3, ahead=0))]
        assert [reply.cached for reply in (first, *later)] == [False, True, True]
        assert len({reply.completion.text for reply in (first, *later)}) == 3
        client.call(replace(HOT, rollout=4, ahead=0))
        assert client.stats().made == 2
    assert [body.get("n") for body in server.requests] == [3, None]
    assert first.completion.usage.completion_tokens == 6
    assert all(reply.completion.usage.completion_tokens == 0 for reply in later)


def test_the_limit_of_the_endpoint_holds(server: HttpLM) -> None:
    with client_of(server, samples=2) as client:
        client.call(HOT)
    with client_of(server, samples=1) as client:
        client.call(HOT)
    assert [body.get("n") for body in server.requests] == [2, None]


def test_greedy_calls_ask_for_one(server: HttpLM) -> None:
    server.answer = lambda _: "the same"
    with client_of(server) as client:
        client.call(replace(HOT, sampling=Sampling()))
    assert "n" not in server.requests[0]


def test_a_server_that_heeds_no_n_is_asked_again() -> None:
    class One(HttpLM):
        def _completion(self, body: Body) -> Body:
            return super()._completion({**body, "n": 1})

    with One(answer=seeded_answer) as deaf, client_of(deaf) as client:
        assert not client.call(HOT).cached
        assert not client.call(replace(HOT, rollout=2, ahead=1)).cached
        assert len(deaf.requests) == 2


@pytest.mark.parametrize("status", [400, 422, 500])
def test_a_server_that_refuses_n_is_asked_without_it(status: int) -> None:
    class One(HttpLM):
        async def _chat(self, request: web.Request) -> web.StreamResponse:
            body = await request.json()
            if "n" not in body:
                return await super()._chat(request)
            self.requests.append(body)
            return web.json_response({"error": {"message": "Only one completion choice is allowed"}}, status=status)

    with One(answer=seeded_answer) as strict, client_of(strict) as client:
        texts = {client.call(replace(HOT, rollout=1 + n, ahead=2 - n)).completion.text for n in range(3)}
        assert len(texts) == 3
        assert [body.get("n") for body in strict.requests] == [3, None, None, None]


def test_a_request_that_is_refused_for_another_reason_says_nothing_of_n(server: HttpLM) -> None:
    server.fault = lambda body, _: "400" if body["messages"][-1]["content"] == "bad" else None
    with client_of(server) as client:
        with pytest.raises(InvalidRequestError):
            client.call(replace(HOT, messages=(Message("user", "bad"),)))
        client.call(HOT)
    assert [body.get("n") for body in server.requests] == [3, None, 3]


def test_half_of_several_samples_is_kept() -> None:
    class Broken(HttpLM):
        def _completion(self, body: Body) -> Body:
            whole = super()._completion(body)
            for choice in whole["choices"][2:]:
                choice["finish_reason"] = "content_filter"
            return whole

    with Broken(answer=seeded_answer) as odd, client_of(odd) as client:
        client.call(HOT)
        assert client.call(replace(HOT, rollout=2, ahead=1)).cached
        assert not client.call(replace(HOT, rollout=3, ahead=0)).cached


def test_bootstrapping_asks_for_its_rollouts_at_once(pytester: pytest.Pytester) -> None:
    """A run takes fewer requests with the same steps; the first rollout, as the program is, stays alone."""
    asked: dict[int, list[Body]] = {}
    for samples in (1, 8):
        with HttpLM(answer=parity_answer) as server:
            pytester.makepyfile(test_parity=SMALL_SUITE.replace("THRESHOLD", "0.0").replace("rollouts=3", "rollouts=5"))
            table = f'[tool.bt-harness.lm."openai/*"]\nbase_url = "{server.base_url}"\nsamples = {samples}\n'
            (pytester.path / "pyproject.toml").write_text(table)
            result = pytester.runpytest(
                "--bt-optimize", "--bt-strategies=p", "--bt-lm=openai/m", f"--bt-store={pytester.path / str(samples)}"
            )
            assert result.ret in (0, 1)
            asked[samples] = server.requests
    assert all("n" not in body for body in asked[1])
    several = [body["n"] for body in asked[8] if "n" in body]
    assert several
    assert max(several) == 4  # rollouts two to five
    hot = [[body for body in bodies if body["temperature"] > 0] for bodies in asked.values()]
    assert len(hot[1]) < len(hot[0])
