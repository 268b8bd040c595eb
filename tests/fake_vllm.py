"""A simulated vLLM server over real HTTP: adapters are loaded, unloaded and called by name, and it can be restarted."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from tests.http_lm import Body, HttpLM


def answer(body: Body) -> str:
    """A text that depends on the adapter and the prompt."""
    return f"{body['model'][:12]} says {body['messages'][-1]['content']}"


@dataclass
class FakeVllm(HttpLM):
    """Answers for ``base`` and the adapters loaded, with the routes and the errors of vLLM 0.32.

    ``events`` lists what was loaded and unloaded; ``allows`` False is a server without runtime updates.
    """

    base: str = "base"
    allows: bool = True
    highest_rank: int = 16
    loaded: dict[str, str] = field(default_factory=dict)
    events: list[tuple[str, str]] = field(default_factory=list)

    def restart(self) -> None:
        """Forget every adapter, as a new process does."""
        self.loaded.clear()
        self.events.append(("restart", ""))

    def add_routes(self, router: web.UrlDispatcher) -> None:
        if self.allows:
            router.add_post("/v1/load_lora_adapter", self._load)
            router.add_post("/v1/unload_lora_adapter", self._unload)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        model = (await request.json())["model"]
        if model != self.base and model not in self.loaded:
            return _error(404, "NotFoundError", f"The model `{model}` does not exist.")
        return await super()._chat(request)

    async def _load(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        name, path = body["lora_name"], Path(body["lora_path"])
        if name in self.loaded:
            said = (
                f"The lora adapter '{name}' has already been loaded. If you want to load the adapter in place, set "
                "'load_inplace' to True."
            )
            return _error(400, "InvalidUserInput", said)
        config = path / "adapter_config.json"
        if not config.is_file():
            return _error(404, "NotFoundError", f"Loading lora {name} failed: No adapter found for {path}")
        rank = json.loads(config.read_text())["r"]
        if rank > self.highest_rank:
            said = f"LoRA rank {rank} is greater than max_lora_rank {self.highest_rank}."
            return _error(400, "BadRequestError", said)
        self.loaded[name] = str(path)
        self.events.append(("load", name))
        return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")

    async def _unload(self, request: web.Request) -> web.StreamResponse:
        name = (await request.json())["lora_name"]
        if self.loaded.pop(name, None) is None:
            return _error(404, "NotFoundError", f"The lora adapter '{name}' cannot be found.")
        self.events.append(("unload", name))
        return web.Response(text=f"Success: LoRA adapter '{name}' removed successfully.")


def _error(status: int, kind: str, message: str) -> web.Response:
    error = {"message": message, "type": kind, "param": None, "code": status}
    return web.json_response({"error": error}, status=status)
