"""A model hub on loopback: directories under the URLs of Hugging Face's hub, each at one revision."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

REVISION = "c0ffee" + 34 * "0"
FILE = re.compile(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)")
ABOUT = re.compile(r"/api/models/([^/]+/[^/]+)/(revision|tree)/([^/?]+)(?:\?.*)?")


@dataclass
class Hub:
    """What the server knows, and the files that were asked for."""

    models: Mapping[str, Path]
    gated: frozenset[str] = frozenset()
    address: str = ""
    given: list[str] = field(default_factory=list)

    def answer(self, path: str) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body."""
        if (about := ABOUT.fullmatch(path)) and about[1] in self.models:
            if about[3] not in ("main", "v1", REVISION):
                return 404, {"X-Error-Code": "RevisionNotFound"}, b""
            found: object = self._tree(about[1])
            if about[2] == "revision":
                found = {"id": about[1], "sha": REVISION, "siblings": []}
            return 200, {"Content-Type": "application/json"}, json.dumps(found).encode()
        if (file := FILE.fullmatch(path)) and file[1] in self.models:
            if file[1] in self.gated:
                return 403, {"X-Error-Code": "GatedRepo"}, b""
            content = (self.models[file[1]] / file[2]).read_bytes()
            return 200, {"X-Repo-Commit": REVISION, "ETag": f'"{sha1(content).hexdigest()}"'}, content
        return 401, {"X-Error-Code": "RepoNotFound"}, b""

    def _tree(self, name: str) -> list[dict[str, object]]:
        files = [(path.name, path.read_bytes()) for path in sorted(self.models[name].iterdir())]
        return [
            {"type": "file", "path": path, "size": len(content), "oid": sha1(content).hexdigest()}
            for path, content in files
        ]


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Until it is left; `hub.address` is what HF_ENDPOINT should be."""

    class Handler(BaseHTTPRequestHandler):
        """Answers from the hub."""

        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, headers, body = hub.answer(self.path)
            if self.command == "GET" and status == 200 and (file := FILE.fullmatch(self.path)):
                hub.given.append(file[2])
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        hub.address = f"http://127.0.0.1:{server.server_address[1]}"
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
