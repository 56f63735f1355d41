"""Subspaces on the hub: the hub's own client against a stand-in on 127.0.0.1."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from peft import PeftModel

from realign_plugin import SafetySubspace, UserError
from realign_plugin.subspace.card import base_name
from tests.conftest import logits_of

TOKEN = "made-up-token"
COMMIT = "0" * 40


class Hub(BaseHTTPRequestHandler):
    """What the client needs in order to make a repository, commit small files to it and download them."""

    files: dict[str, bytes]
    calls: list[str]

    def log_message(self, *args: Any) -> None: ...

    def answer(self, content: Any, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.calls.append(self.path)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer({"error": "who are you?"}, 401)
        elif self.path == "/api/repos/create":
            self.answer({"url": f"http://{self.headers['Host']}/someone/repaired", "name": "someone/repaired"})
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            self.answer({"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer({"commitUrl": f"https://huggingface.co/someone/repaired/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self.answer({})

    def do_GET(self) -> None:
        content = self.files.get(self.path.rpartition("/")[2]) if "/resolve/" in self.path else b"{}"
        if content is None:
            self.answer({"error": "none"}, 404, X_Error_Code="EntryNotFound")
        else:
            self.answer(content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=COMMIT)

    do_HEAD = do_GET  # noqa: N815


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Hub]]:
    """An empty hub that the client takes for the real one."""
    handler = type("EmptyHub", (Hub,), {"files": {}, "calls": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", address)  # the client behind PEFT's file_exists
    yield handler
    server.shutdown()
    server.server_close()


ROWS = [
    {"model": "fine-tuned", "refusal_rate": 0.35, "refusal_rate_low": 0.28, "refusal_rate_high": 0.42, "skill": None},
    {"model": "repaired", "refusal_rate": 0.56, "refusal_rate_low": 0.49, "refusal_rate_high": 0.63, "skill": 0.5},
]


def test_what_is_pushed_comes_back_the_same(
    subspace: Any, base_model: Any, tokens: torch.Tensor, hub: type[Hub], tmp_path: Path
) -> None:
    assert Path(subspace.base_model).is_absolute()
    url = subspace.push_to_hub("someone/repaired", token=TOKEN, rows=ROWS)
    assert url.endswith(COMMIT)
    assert set(hub.files) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert subspace.base_model.encode() not in b"".join(hub.files.values())
    again = SafetySubspace.from_pretrained("someone/repaired")
    one, two = subspace.state_dict(), again.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert again.base_model == "base"
    model = PeftModel.from_pretrained(base_model, "someone/repaired").eval()
    (local := tmp_path / "local").mkdir()
    expected = logits_of(model, tokens)
    subspace.save(local)
    assert torch.equal(logits_of(PeftModel.from_pretrained(model.unload(), local).eval(), tokens), expected)


def test_the_card_says_what_it_is(subspace: Any, hub: type[Hub]) -> None:
    from huggingface_hub import ModelCard

    subspace.push_to_hub("someone/repaired", token=TOKEN, base_model="someone/base", rows=ROWS)
    text = hub.files["README.md"].decode()
    data = ModelCard(text).data
    assert data.base_model == "someone/base"
    assert data.library_name == "peft"
    assert set(data.tags) == {"safety-subspace", "safety", "realign-plugin"}
    assert "# repaired" in text
    assert "Fine-tuned: task1, task2 (weights 0.3, 0.3; task_arithmetic)" in text
    assert "Aligned: aligned" in text
    assert "| repaired | 0.56 [0.49, 0.63] | 0.50 |" in text
    assert "| fine-tuned | 0.35 [0.28, 0.42] | – |" in text
    assert 'PeftModel.from_pretrained(base_model, "someone/repaired")' in text
    assert json.loads(hub.files["adapter_config.json"])["base_model_name_or_path"] == "someone/base"


def test_what_the_hub_refuses_is_one_line(subspace: Any, hub: type[Hub]) -> None:
    with pytest.raises(UserError, match=r"^repo_id: 'someone/repaired' cannot be written on the hub \(.*whoami`$"):
        subspace.push_to_hub("someone/repaired", token="another")
    with pytest.raises(UserError, match=r"^adapter: 'someone/none' is not a folder and cannot be fetched .*whoami`$"):
        SafetySubspace.from_pretrained("someone/none")
    assert hub.calls == ["/api/repos/create"]  # nothing was uploaded


def test_a_folder_is_read_without_the_hub(subspace: Any, tmp_path: Path, hub: type[Hub]) -> None:
    subspace.save(tmp_path / "local")
    assert SafetySubspace.from_pretrained(tmp_path / "local").spec == subspace.spec
    with pytest.raises(UserError, match="adapter_config"):
        SafetySubspace.from_pretrained(tmp_path)
    assert not hub.calls


@pytest.mark.parametrize(
    ("path", "name"),
    [("someone/base", "someone/base"), ("/gone/models/base", "base"), (".", ""), (None, "the base model")],
)
def test_a_folder_of_this_machine_is_not_published(path: str | None, name: str) -> None:
    assert base_name(path) == name
