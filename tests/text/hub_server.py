"""A stand-in for the Hugging Face hub: data sets in memory, over the part of its protocol that streaming uses."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

# Repository, revision, file name, content.
Repositories = dict[str, dict[str, dict[str, bytes]]]

_API = re.compile(r"/api/datasets/([^/]+/[^/]+?)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?")
_FILE = re.compile(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


def commit_of(files: dict[str, bytes]) -> str:
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


@contextmanager
def serve(repositories: Repositories) -> Iterator[str]:
    """Serves the repositories on this machine; yields the address to put into HF_ENDPOINT."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if matched := _FILE.fullmatch(path):
                self._file(*map(unquote, matched.groups()))
            elif matched := _API.fullmatch(path):
                self._api(*(unquote(group) if group else "" for group in matched.groups()), body.decode())
            else:
                self._refuse("EntryNotFound")

        do_HEAD = do_POST = do_GET

        def _files(self, repository: str, revision: str) -> dict[str, bytes] | None:
            revisions = repositories.get(repository, {})
            by_commit = {commit_of(files): files for files in revisions.values()}
            return revisions.get(revision) or by_commit.get(revision)

        def _file(self, repository: str, revision: str, name: str) -> None:
            files = self._files(repository, revision)
            if files is None or name not in files:
                return self._refuse("RepoNotFound" if files is None else "EntryNotFound")
            content = files[name]
            headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": commit_of(files)}
            if span := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
                start, end = int(span[1]), min(int(span[2] or len(content)), len(content) - 1)
                headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
                return self._answer(206, content[start : end + 1], headers)
            return self._answer(200, content, headers)

        def _api(self, repository: str, kind: str, revision: str, folder: str, body: str) -> None:
            files = self._files(repository, revision or "main")
            if files is None:
                return self._refuse("RevisionNotFound" if repository in repositories else "RepoNotFound")
            if kind in ("", "revision"):
                siblings = [{"rfilename": name} for name in files]
                return self._json({"id": repository, "sha": commit_of(files), "siblings": siblings, "tags": []})
            names = list(files)
            if kind == "paths-info":
                asked = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body).get("paths", [])
                return self._json([entry for name in asked for entry in _entries(files, name)])
            inside = [name for name in names if not folder or name.startswith(folder + "/")]
            if folder and not inside:
                return self._refuse("EntryNotFound")
            depth = folder.count("/") + 1 if folder else 0
            recursive = "recursive=true" in urlsplit(self.path).query.lower()
            found = dict.fromkeys(
                "/".join(name.split("/")[:length])
                for name in inside
                for length in range(depth + 1, (len(name.split("/")) if recursive else depth + 1) + 1)
            )
            return self._json([entry for name in found for entry in _entries(files, name)])

        def _json(self, value: object) -> None:
            self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def _refuse(self, code: str) -> None:
            self._answer(404, b"{}", {"X-Error-Code": code, "Content-Type": "application/json"})

        def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content)), "Accept-Ranges": "bytes"}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _entries(files: dict[str, bytes], name: str) -> list[dict[str, object]]:
    """A file or folder as the hub lists it; nothing if it does not exist."""
    oid = hashlib.sha1(name.encode()).hexdigest()
    if name in files:
        return [{"type": "file", "path": name, "size": len(files[name]), "oid": oid}]
    if any(other.startswith(name + "/") for other in files):
        return [{"type": "directory", "path": name, "size": 0, "oid": oid}]
    return []
