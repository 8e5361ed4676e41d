"""What the ports of a Ray give to whoever asks without a token.

    python ray_attack.py HOST PORT...

Prints a line for each page and each method of Ray's services that does not ask for the token.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException

import grpc
from ray.core import generated

TIMEOUT_S = 20
PAGES = ("/", "/metrics", "/api/version", "/logs/", "/api/job_agent/jobs/", "/nodes?view=summary")
POSTED = ("/api/job_agent/jobs/", "/get_or_create_runtime_env")
OBJECT_MANAGER = ("Push", "Pull", "FreeObjects")
"""Ray 2.60 has no Python for this service."""
CLOSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED)


def methods() -> Iterator[str]:
    """Yield the address of every method of Ray's services."""
    for module in pkgutil.iter_modules(generated.__path__):
        if module.name.endswith("_pb2"):
            loaded = importlib.import_module(f"{generated.__name__}.{module.name}")
            for service in loaded.DESCRIPTOR.services_by_name.values():
                yield from (f"/{service.full_name}/{method.name}" for method in service.methods)
    yield from (f"/ray.rpc.ObjectManagerService/{name}" for name in OBJECT_MANAGER)


def ask_page(address: str, path: str, data: bytes | None) -> str | None:
    """Return what a page gives away, None where that is nothing."""
    request = urllib.request.Request(f"http://{address}{path}", data=data)
    try:
        status = urllib.request.urlopen(request, timeout=TIMEOUT_S).status
    except urllib.error.HTTPError as error:
        status = error.code
    except (OSError, HTTPException):  # it speaks something else
        return None
    return None if status == 401 else f"{address}{path} {status}"


def ask_method(channel: grpc.Channel, address: str, method: str) -> str | None:
    """Return what a method gives away to an empty message, None where that is nothing."""
    try:
        # A method that streams its answer refuses in the same way.
        channel.unary_unary(method)(b"", timeout=TIMEOUT_S)
    except grpc.RpcError as error:
        if error.code() in CLOSED:
            return None
        return f"{address}{method} {error.code().name}"
    return f"{address}{method} OK"


def attack(address: str) -> Iterator[str | None]:
    """Ask a port for all pages and, where it speaks gRPC, for all methods."""
    yield from (ask_page(address, path, None) for path in PAGES)
    yield from (ask_page(address, path, b"{}") for path in POSTED)
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=TIMEOUT_S)
        except grpc.FutureTimeoutError:
            return
        with ThreadPoolExecutor(8) as at_once:
            yield from at_once.map(lambda method: ask_method(channel, address, method), methods())


if __name__ == "__main__":
    for port in sys.argv[2:]:
        for given in filter(None, attack(f"{sys.argv[1]}:{port}")):
            print(given)
    print("asked", len(list(methods())))
