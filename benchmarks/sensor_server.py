"""As much of S3's protocol as a sensor needs, over objects that exist only as names: list, put, delete.

    python -m benchmarks.sensor_server --objects 100000 --domains 8 --latency-ms 0

prints its URL. The bucket is `bucket`, the prefix `raw`; `GET /requests` tells how many requests it has answered.
"""

import argparse
import bisect
import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

LONG_AGO = "2020-01-01T00:00:00.000Z"  # every object is at rest
PAGE = 1_000


class Bucket:
    """Sorted names with their ETags."""

    def __init__(self, objects: int, domains: int) -> None:
        names = (f"raw/domain_{number % domains}/{number:08}.jsonl" for number in range(objects))
        self.etags = {name: _etag(name.encode()) for name in names}
        self.names = sorted(self.etags)
        self.requests = 0
        self.lock = threading.Lock()

    def put(self, name: str, content: bytes) -> str:
        """Store an object; its ETag."""
        if name not in self.etags:
            bisect.insort(self.names, name)
        self.etags[name] = _etag(content)
        return self.etags[name]

    def delete(self, name: str) -> None:
        """Remove an object."""
        if self.etags.pop(name, None):
            self.names.remove(name)

    def page(self, prefix: str, after: str) -> str:
        """Up to 1,000 objects behind a name, as ListObjectsV2 answers."""
        first = bisect.bisect_right(self.names, max(after, prefix))
        if not after and first and self.names[first - 1] == prefix:
            first -= 1
        found = self.names[first : first + PAGE + 1]
        found = [name for name in found if name.startswith(prefix)]
        contents = "".join(
            f"<Contents><Key>{quote(name)}</Key><LastModified>{LONG_AGO}</LastModified>"
            f"<ETag>{escape(self.etags[name])}</ETag><Size>1000</Size></Contents>"
            for name in found[:PAGE]
        )
        is_truncated = len(found) > PAGE
        token = (
            f"<NextContinuationToken>{escape(found[PAGE - 1])}</NextContinuationToken>"
            if is_truncated
            else ""
        )
        return (
            "<?xml version='1.0' encoding='UTF-8'?><ListBucketResult><EncodingType>url</EncodingType>"
            f"<IsTruncated>{str(is_truncated).lower()}</IsTruncated>{token}{contents}</ListBucketResult>"
        )


def serve(bucket: Bucket, latency_s: float) -> None:
    """Answer until the process ends; the URL goes to standard output."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(bucket, latency_s))
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


def _handler(bucket: Bucket, latency_s: float) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
            if path == "/requests":
                self._answer(str(bucket.requests))
                return
            bucket.requests += 1
            time.sleep(latency_s)
            after = query.get("continuation-token") or query.get("start-after") or [""]
            with bucket.lock:
                self._answer(bucket.page(query.get("prefix", [""])[0], after[0]))

        def do_PUT(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            with bucket.lock:
                self._answer("", etag=bucket.put(self._name(), content))

        def do_DELETE(self) -> None:
            with bucket.lock:
                bucket.delete(self._name())
            self._answer("")

        def _name(self) -> str:
            return unquote(urlsplit(self.path).path).removeprefix("/bucket/")

        def _answer(self, text: str, etag: str | None = None) -> None:
            body = text.encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            if etag:
                self.send_header("ETag", etag)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    return Handler


def _etag(content: bytes) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--objects", type=int, required=True)
    parser.add_argument("--domains", type=int, required=True)
    parser.add_argument("--latency-ms", type=float, default=0.0)
    options = parser.parse_args()
    serve(Bucket(options.objects, options.domains), options.latency_ms / 1000)


if __name__ == "__main__":
    main()
