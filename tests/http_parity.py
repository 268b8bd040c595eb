"""The simulated LM of the parity suite behind real HTTP, and a provider that fine-tunes it, OpenAI style."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.http_lm import Body, HttpLM
from tests.simulated import SUITE

SMALL_SUITE = (
    SUITE.replace("rows(0, 30)", "rows(0, 12)")
    .replace("rows(100, 20)", "rows(100, 10)")
    .replace("rows(200, 25)", "rows(200, 15)")
    .replace("prompt_train=12, prompt_validation=10", "prompt_train=6, prompt_validation=6")
)
"""The parity suite with fewer examples: a call by way of litellm takes milliseconds."""


def parity_answer(body: Body) -> str:
    """``answer: odd``, wrongly at times: less often with demos in the prompt and after fine-tuning."""
    turns = body["messages"]
    number = int(turns[-1]["content"].removeprefix("number: "))
    demos = sum(turn["role"] == "assistant" for turn in turns)
    skill = 0.35 + 0.1 * min(demos, 4) + (0.15 if str(body["model"]).startswith("ft:") else 0.0)
    asked = json.dumps([turns, body["model"], body.get("seed")], sort_keys=True)
    luck = int(hashlib.sha256(asked.encode()).hexdigest()[:8], 16) / 2**32
    right, wrong = ("odd", "even") if number % 2 else ("even", "odd")
    return f"answer: {right if luck < skill else wrong}"


@dataclass
class HttpTuner(HttpLM):
    """A server with files and fine-tuning jobs; a job succeeds at its ``polls``-th look.

    ``refuse`` names the error for a request to the API, by method and path, if any; ``on_create`` is called when a
    job was started, before anybody is told of it.
    """

    answer: Callable[[Body], str] = parity_answer
    polls: int = 2
    ends: str = "succeeded"
    files: dict[str, bytes] = field(default_factory=dict)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    looks: list[str] = field(default_factory=list)
    refuse: Callable[[str], int | None] = lambda _: None
    on_create: Callable[[], None] = lambda: None

    def add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_post("/v1/files", self._upload)
        router.add_post("/v1/fine_tuning/jobs", self._create)
        router.add_get("/v1/fine_tuning/jobs", self._list)
        router.add_get("/v1/fine_tuning/jobs/{id}", self._look)

    def _refusal(self, request: web.Request) -> web.Response | None:
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        status = self.refuse(f"{request.method} {request.path}")
        if status is None:
            return None
        key = request.headers.get("Authorization", "")
        return web.json_response({"error": {"message": f"no, {key}", "type": "e", "code": "e"}}, status=status)

    async def _upload(self, request: web.Request) -> web.Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        form = await request.post()
        upload = form["file"]
        assert isinstance(upload, web.FileField)
        assert form["purpose"] == "fine-tune"
        name = f"file-{len(self.files) + 1}"
        with upload.file as file:
            self.files[name] = file.read()
        return web.json_response(
            {
                "id": name,
                "object": "file",
                "bytes": len(self.files[name]),
                "created_at": 1,
                "filename": upload.filename,
                "purpose": "fine-tune",
                "status": "processed",
            }
        )

    async def _create(self, request: web.Request) -> web.Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        body = await request.json()
        if body["training_file"] not in self.files:
            return web.json_response({"error": {"message": "invalid training_file", "code": "e"}}, status=400)
        name = f"ftjob-{len(self.jobs) + 1}"
        self.jobs[name] = {
            "id": name,
            "object": "fine_tuning.job",
            "created_at": 100,
            "error": None,
            "fine_tuned_model": None,
            "finished_at": None,
            "hyperparameters": body["hyperparameters"],
            "model": body["model"],
            "organization_id": "org",
            "result_files": [],
            "seed": body.get("seed", 0),
            "status": "running",
            "trained_tokens": None,
            "training_file": body["training_file"],
            "validation_file": None,
        }
        self.on_create()
        return web.json_response(self.jobs[name])

    async def _list(self, request: web.Request) -> web.Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        return web.json_response({"object": "list", "data": list(self.jobs.values()), "has_more": False})

    async def _look(self, request: web.Request) -> web.Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        name = request.match_info["id"]
        if name not in self.jobs:
            return web.json_response({"error": {"message": "no such job", "code": "e"}}, status=404)
        self.looks.append(name)
        job = self.jobs[name]
        if self.looks.count(name) >= self.polls:
            job |= {"status": self.ends, "finished_at": 160, "trained_tokens": 1234}
            if self.ends == "succeeded":
                job["fine_tuned_model"] = f"ft:{job['model']}:org::{name[-1]}"
            else:
                job["error"] = {"code": "bad", "message": "the file has too few examples", "param": None}
        return web.json_response(job)
