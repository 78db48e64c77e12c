"""The HTTP side of the cluster: the calls that Dagster makes, spoken as a Kubernetes API server speaks them.

Served are create, get, list and delete of Jobs and pods, a pod's log, events and the version; everything else is
answered with 404, so that a new kind of call does not go unnoticed. Every created object has to pass `admit`.
"""

import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import yaml

from tests.cluster.admission import KUBERNETES_VERSION, RefusedError, admit
from tests.cluster.cluster import AlreadyExistsError, Cluster, NotFoundError
from tests.cluster.faults import ApiFault, Call, LostAnswer, Silence, Status
from tests.cluster.selectors import Object, select

CLOSING_SECONDS = 0.05  # how long closing may take

_RESOURCE = re.compile(
    r"/(?P<group>api/v1|apis/batch/v1)/namespaces/(?P<namespace>[^/]+)/(?P<kind>jobs|pods|events)"
    r"(?:/(?P<name>[^/]+))?(?:/(?P<part>status|log))?"
)
_GROUPS = {"jobs": "apis/batch/v1", "pods": "api/v1", "events": "api/v1"}
_LISTS = {
    "jobs": {"kind": "JobList", "apiVersion": "batch/v1"},
    "pods": {"kind": "PodList", "apiVersion": "v1"},
    "events": {"kind": "EventList", "apiVersion": "v1"},
}


class ApiError(Exception):
    """An answer that is an error."""

    def __init__(self, code: HTTPStatus, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason = code, reason


@dataclass(frozen=True)
class Answer:
    """What the server says."""

    code: int
    body: bytes
    content_type: str = "application/json"
    retry_after_seconds: int | None = None


class ApiServer:
    """Serves a cluster while it is used as a context manager.

    Attributes:
        url: Where it listens.
        calls: Every call with the code it was answered with; None where the answer was withheld.
        faults: Which calls go wrong.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.calls: list[tuple[Call, int | None]] = []
        self.faults: list[ApiFault] = []
        self.closing = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> "ApiServer":
        threading.Thread(target=self._http.serve_forever, args=(CLOSING_SECONDS,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()

    def write_kubeconfig(self, path: Path) -> None:
        """Write what a client needs to reach this server."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": self.url}}],
            "users": [{"name": "test", "user": {}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "current-context": "test",
        }
        path.write_text(yaml.safe_dump(config))

    def answer(self, call: Call) -> Answer | None:
        """Do what a call asks for, or what a fault makes of it; None is no answer."""
        effect = next((fault.effect for fault in self.faults if fault.take(call)), None)
        if isinstance(effect, Silence):
            self.closing.wait(effect.seconds)
            answer = None
        elif isinstance(effect, Status):
            reason = HTTPStatus(effect.code).phrase
            answer = _error(effect.code, reason, "a fault of the test", effect.retry_after_seconds)
        else:
            answer = self._obey(call)
            if isinstance(effect, LostAnswer):
                answer = None
        self.calls.append((call, answer.code if answer else None))
        return answer

    def _obey(self, call: Call) -> Answer:
        try:
            with self.cluster.lock:
                return _Obedience(self.cluster, call).answer()
        except ApiError as error:
            return _error(error.code, error.reason, str(error))
        except NotFoundError as error:
            return _error(HTTPStatus.NOT_FOUND, "NotFound", str(error))
        except AlreadyExistsError as error:
            return _error(HTTPStatus.CONFLICT, "AlreadyExists", str(error))
        except RefusedError as error:
            return _error(HTTPStatus.UNPROCESSABLE_ENTITY, "Invalid", str(error))
        except ValueError as error:
            return _error(HTTPStatus.BAD_REQUEST, "BadRequest", str(error))


class _Obedience:
    """One call that is obeyed."""

    def __init__(self, cluster: Cluster, call: Call) -> None:
        self.cluster, self.call = cluster, call

    def answer(self) -> Answer:
        if self.call.path == "/version":
            major, minor = KUBERNETES_VERSION.split(".")
            return _json(
                HTTPStatus.OK, {"major": major, "minor": minor, "gitVersion": f"v{KUBERNETES_VERSION}.0"}
            )
        match = _RESOURCE.fullmatch(self.call.path)
        if match is None or _GROUPS[match["kind"]] != match["group"] or "watch" in self.call.query:
            raise ApiError(
                HTTPStatus.NOT_FOUND, "NotFound", f"not served: {self.call.method} {self.call.path}"
            )
        namespace, kind, name = match["namespace"], match["kind"], match["name"]
        if self.call.method == "POST" and kind != "events" and not name:
            return self._create(namespace, kind)
        if self.call.method == "DELETE" and kind != "events" and name and not match["part"]:
            return self._delete(namespace, kind, name)
        if self.call.method == "GET" and not name:
            return _json(
                HTTPStatus.OK, {**_LISTS[kind], "metadata": {}, "items": self._list(namespace, kind)}
            )
        if self.call.method == "GET" and match["part"] == "log":
            return self._log(namespace, name)
        if self.call.method == "GET":
            return _json(HTTPStatus.OK, self._get(namespace, kind, name))
        raise ApiError(
            HTTPStatus.METHOD_NOT_ALLOWED, "MethodNotAllowed", f"{self.call.method} {self.call.path}"
        )

    def _create(self, namespace: str, kind: str) -> Answer:
        body = dict(self.call.body)
        admit(body)
        create = self.cluster.create_job if kind == "jobs" else self.cluster.create_pod
        return _json(HTTPStatus.CREATED, create(namespace, body))

    def _delete(self, namespace: str, kind: str, name: str) -> Answer:
        options = {**self.call.query, **self.call.body}
        if kind == "jobs":
            with_pods = options.get("propagationPolicy", "Orphan") != "Orphan"
            self.cluster.delete_job(namespace, name, with_pods=with_pods)
            return _json(HTTPStatus.OK, {"kind": "Status", "apiVersion": "v1", "status": "Success"})
        grace = options.get("gracePeriodSeconds")
        return _json(
            HTTPStatus.OK, self.cluster.delete_pod(namespace, name, None if grace is None else float(grace))
        )

    def _list(self, namespace: str, kind: str) -> list[Object]:
        every: dict[str, list[Object]] = {
            "jobs": list(self.cluster.jobs.values()),
            "pods": [pod.shown for pod in self.cluster.pods.values()],
            "events": self.cluster.events,
        }
        here = [item for item in every[kind] if item["metadata"]["namespace"] == namespace]
        return select(here, self.call.query)

    def _get(self, namespace: str, kind: str, name: str) -> Object:
        for item in self._list(namespace, kind):
            if item["metadata"]["name"] == name:
                return item
        raise NotFoundError(f'{kind} "{name}" not found')

    def _log(self, namespace: str, name: str) -> Answer:
        """A pod's log, or its last `tailLines`; `timestamps` is not honoured."""
        if (namespace, name) not in self.cluster.pods:
            raise NotFoundError(f'pods "{name}" not found')
        pod = self.cluster.pods[namespace, name]
        if pod.process is None:
            raise ValueError(f'container of pod "{name}" is waiting to start')
        lines = pod.output.splitlines(keepends=True)
        last = lines[-int(self.call.query.get("tailLines", len(lines))) :]
        return Answer(HTTPStatus.OK, "".join(last).encode(), "text/plain")


def _json(code: int, body: Mapping[str, Any], retry_after_seconds: int | None = None) -> Answer:
    return Answer(code, json.dumps(body).encode(), retry_after_seconds=retry_after_seconds)


def _error(code: int, reason: str, message: str, retry_after_seconds: int | None = None) -> Answer:
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code}
    return _json(code, {**status, "reason": reason, "message": message}, retry_after_seconds)


def _handler_of(server: ApiServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def respond(self) -> None:
            url = urlsplit(self.path)
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = json.loads(content) if content else {}
            answer = server.answer(Call(self.command, url.path, dict(parse_qsl(url.query)), body or {}))
            if answer is None:
                self.close_connection = True
                return
            self.send_response(answer.code)
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(len(answer.body)))
            if answer.retry_after_seconds is not None:
                self.send_header("Retry-After", str(answer.retry_after_seconds))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, format: str, *args: object) -> None:
            """Calls are recorded, not printed."""

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = respond  # noqa: N815

    return Handler
