"""A small HTTP server that keeps folders, data sources, dashboards and alert rules as Grafana's API does.

Written from the reference of Grafana's HTTP API (folder, data source, dashboard, alerting provisioning): status codes,
the values that Grafana adds to what it was given, and passwords that it never tells. It records each request.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "glsa_right"
Answer = tuple[int, Any]


@dataclass
class Grafana:
    """Its state, and what it was asked."""

    url: str = ""
    folders: dict[str, Any] = field(default_factory=dict)
    datasources: dict[str, Any] = field(default_factory=dict)
    dashboards: dict[str, Any] = field(default_factory=dict)
    rule_groups: dict[tuple[str, str], Any] = field(default_factory=dict)
    passwords: dict[str, str] = field(default_factory=dict)
    health: Answer = (200, {"status": "OK", "message": "Data source is working"})
    query_answer: Answer = (200, {"results": {"A": {"frames": []}}})
    refuses_writes: bool = False
    requests: list[tuple[str, str]] = field(default_factory=list)

    @property
    def writes(self) -> list[tuple[str, str]]:
        """Requests that change something."""
        return [(method, path) for method, path in self.requests if method != "GET" and path != "/api/ds/query"]

    def answer(self, method: str, path: str, body: Any) -> Answer:
        """What it answers, with its status code."""
        self.requests.append((method, path))
        if method != "GET" and path != "/api/ds/query" and self.refuses_writes:
            return 403, {"message": "You'll need additional permissions to perform this action"}
        match [part for part in path.split("/") if part][1:]:
            case ["folders", *rest]:
                return self._folder(method, rest, body)
            case ["datasources", "uid", uid, "health"]:
                return self.health if uid in self.datasources else (404, {"message": "Data source not found"})
            case ["datasources", *rest]:
                return self._datasource(method, rest, body)
            case ["dashboards", "uid", uid]:
                return self._found(self.dashboards.get(uid), "Dashboard not found")
            case ["dashboards", "db"]:
                return self._write_dashboard(body)
            case ["v1", "provisioning", "folder", folder, "rule-groups", title]:
                return self._rule_group(method, (folder, title), body)
            case ["ds", "query"]:
                return self.query_answer
        return 404, {"message": "Not found"}

    def _found(self, thing: Any, message: str) -> Answer:
        return (404, {"message": message}) if thing is None else (200, thing)

    def _folder(self, method: str, rest: list[str], body: Any) -> Answer:
        if method == "GET":
            return self._found(self.folders.get(rest[0]), "folder not found")
        uid = body["uid"] if method == "POST" else rest[0]
        if method == "POST" and uid in self.folders:
            return 409, {"message": "a folder with the same uid already exists"}
        self.folders[uid] = {"id": 1, "uid": uid, "title": body["title"], "version": 1, "url": f"/dashboards/f/{uid}"}
        return 200, self.folders[uid]

    def _datasource(self, method: str, rest: list[str], body: Any) -> Answer:
        if method == "GET":
            return self._found(self.datasources.get(rest[1]), "Data source not found")
        uid = body["uid"]
        if method == "POST" and uid in self.datasources:
            return 409, {"message": "data source with the same name already exists"}
        secrets = body.get("secureJsonData") or {}
        if secrets.get("password"):
            self.passwords[uid] = secrets["password"]
        kept = {key: value for key, value in body.items() if key != "secureJsonData"}
        self.datasources[uid] = {
            "id": 3, "orgId": 1, "typeLogoUrl": "", "user": "", "database": "", "basicAuth": False, "isDefault": False,
            "readOnly": False, **kept, "secureJsonFields": {"password": True} if uid in self.passwords else {},
        }  # fmt: skip
        return 200, {"datasource": self.datasources[uid], "message": "Datasource written"}

    def _write_dashboard(self, body: Any) -> Answer:
        dashboard, folder = body["dashboard"], body["folderUid"]
        if folder not in self.folders:
            return 400, {"message": "folder not found"}
        before = self.dashboards.get(dashboard["uid"])
        version = before["dashboard"]["version"] + 1 if before else 1
        stored = {**dashboard, "id": 40 + len(self.dashboards), "version": version}
        self.dashboards[dashboard["uid"]] = {"dashboard": stored, "meta": {"folderUid": folder, "provisioned": False}}
        return 200, {"uid": dashboard["uid"], "status": "success", "version": version}

    def _rule_group(self, method: str, key: tuple[str, str], body: Any) -> Answer:
        if method == "GET":
            return self._found(self.rule_groups.get(key), "rule group not found")
        rules = [
            {
                "id": 7 + number, **rule, "updated": "2026-11-26T00:00:00Z", "provenance": "api",
                "notification_settings": None, "record": None,
            }
            for number, rule in enumerate(body["rules"])
        ]  # fmt: skip
        self.rule_groups[key] = {**body, "rules": rules}
        return 200, self.rule_groups[key]


@contextmanager
def serve_grafana() -> Iterator[Grafana]:
    """Serve one on a free port of this machine."""
    grafana = Grafana()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                status, value = 401, {"message": "Invalid API key"}
            else:
                status, value = grafana.answer(self.command, self.path.partition("?")[0], body)
            text = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PUT = _answer  # noqa: N815

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    grafana.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield grafana
    finally:
        server.shutdown()
        server.server_close()
