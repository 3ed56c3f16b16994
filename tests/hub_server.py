"""A small server that speaks a hub's protocol, and can be told to misbehave."""

import hashlib
import json
import re
import threading
import time
from collections import Counter, deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """Repositories and faults.

    `faults` are taken one per file request: `status` (with headers), `truncated`, `silent`,
    `damaged` or `whole` (a range is ignored).
    """

    files: dict = field(default_factory=dict)  # (kind, repo) → {path: bytes}
    small: set = field(default_factory=set)  # paths kept in git, not in LFS
    gated: set = field(default_factory=set)
    tokens: set = field(default_factory=set)
    faults: deque = field(default_factory=deque)
    listing_faults: deque = field(default_factory=deque)
    requests: Counter = field(default_factory=Counter)
    ranges: list = field(default_factory=list)
    url: str = ""

    def described(self, key):
        for path, content in sorted(self.files[key].items()):
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            entry = {"type": "file", "path": path, "size": len(content), "oid": blob}
            if path not in self.small:
                digest = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 130}
            yield entry


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        hub = self.server.hub
        path = self.path.partition("?")[0]
        info = re.fullmatch(r"/api/(datasets|models)/([^/]+/[^/]+)(?:/revision/([^/]+))?", path)
        tree = re.fullmatch(r"/api/(datasets|models)/([^/]+/[^/]+)/tree/([^/]+)/?", path)
        file = re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if (info or tree) and hub.listing_faults:
            status, headers = hub.listing_faults.popleft()
            self.answer(status, b"", headers)
        elif tree:
            hub.requests["tree"] += 1
            key = (tree[1], tree[2])
            if key in hub.files:
                self.answer(200, json.dumps(list(hub.described(key))).encode())
            else:
                self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        elif info:
            hub.requests["info"] += 1
            if (info[1], info[2]) not in hub.files:
                self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
            elif info[3] not in {None, "main", COMMIT}:
                self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
            else:
                body = {"id": info[2], "sha": COMMIT, "siblings": []}
                self.answer(200, json.dumps(body).encode())
        elif file:
            self.send_content(("datasets" if file[1] else "models", file[2]), file[4])
        else:
            self.answer(404, b"")

    def send_content(self, key, path):
        hub = self.server.hub
        hub.requests["file"] += 1
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if key[1] in hub.gated and token not in hub.tokens:
            self.answer(403 if token else 401, b"", {"X-Error-Code": "GatedRepo"})
            return
        content, asked = hub.files[key][path], self.headers.get("Range")
        hub.ranges.append(asked)
        fault, *details = hub.faults.popleft() if hub.faults else (None,)
        if fault == "status":
            self.answer(details[0], b"", details[1])
            return
        if fault == "damaged":
            content = bytes(byte ^ 0xFF for byte in content)
        start = int(asked[6:-1]) if asked and fault != "whole" else 0
        body = content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault in {"truncated", "silent"}:
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            if fault == "silent":
                time.sleep(details[0])
            self.close_connection = True
        else:
            self.wfile.write(body)

    def answer(self, status, body, headers=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving(hub):
    """Serve a hub on a free port of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.hub, server.daemon_threads = hub, True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def use(hub, monkeypatch):
    """Let this process's client ask a served hub, and not wait long for it."""
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    monkeypatch.delenv("HF_TOKEN", raising=False)
