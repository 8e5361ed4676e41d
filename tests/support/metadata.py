"""A fake of the metadata servers of AWS and Google Cloud: the part that spot machines ask."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from secrets import token_hex
from typing import Literal, Self


class Metadata(ThreadingHTTPServer):
    """The metadata server of one cloud, as a context manager; it announces a preemption once `notice` is true."""

    def __init__(self, cloud: Literal["aws", "gcp"], host: str = "127.0.0.1") -> None:
        super().__init__((host, 0), _Answers)
        self.cloud, self.token = cloud, token_hex(8)
        self.notice = False

    @property
    def environment(self) -> dict[str, str]:
        """Variables that make a client ask this server."""
        place = f"{self.server_address[0]!s}:{self.server_port}"
        return {"AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://{place}", "GCE_METADATA_HOST": place}

    def answer(self, path: str, headers: dict[str, str]) -> str | None:
        """Return the page at a path, None where there is none."""
        match self.cloud, path:
            case "aws", "/latest/api/token" if "x-aws-ec2-metadata-token-ttl-seconds" in headers:
                return self.token
            case "aws", "/latest/meta-data/spot/instance-action" if self.notice:
                action = '{"action": "terminate", "time": "2026-01-01T00:00:00Z"}'
                return action if headers.get("x-aws-ec2-metadata-token") == self.token else None
            case "gcp", "/computeMetadata/v1/instance/preempted":
                preempted = "TRUE" if self.notice else "FALSE"
                return preempted if headers.get("metadata-flavor") == "Google" else None
        return None

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        super().__exit__(*error)


class _Answers(BaseHTTPRequestHandler):
    server: Metadata

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        page = self.server.answer(self.path, headers)
        self.send_response(404 if page is None else 200)
        self.end_headers()
        self.wfile.write((page or "not found").encode())

    do_PUT = do_GET

    def log_message(self, *_arguments: object) -> None:
        """Nothing on stderr."""
