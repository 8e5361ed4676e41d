"""Checkpoints on a real S3 server that refuses wrong keys and can be killed."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.checkpoints import fetch_latest_usable, make_checkpoint, save
from support.proxy import Proxy
from support.servers import Server
from support.shell import WAIT_S

from whipray.platform.storage.checkpoints import CheckpointStore
from whipray.platform.storage.config import StorageConfig
from whipray.platform.storage.errors import StorageProblem
from whipray.platform.storage.store import Storage
from whipray.trainers.checkpoint_names import MANIFEST, checkpoint_name

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bucket(swift: Server) -> str:
    swift.make_bucket("runs")
    return "runs"


@pytest.fixture
def open_store(
    swift: Server, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., CheckpointStore]:
    for name, value in swift.environment().items():
        monkeypatch.setenv(name, value)

    def open_it(bucket: str = bucket) -> CheckpointStore:
        config = StorageConfig(
            uri=f"s3://{bucket}/{tmp_path.name}", endpoint_url=swift.endpoint, retry_timeout_s=0
        )
        return CheckpointStore(Storage(config), keep=1)

    return open_it


def test_checkpoints_come_back_and_old_ones_go(
    open_store: Callable[..., CheckpointStore], tmp_path: Path
) -> None:
    store = open_store()
    assert store.latest() is None
    for images_seen in (800, 1600, 2400):
        save(store, make_checkpoint(tmp_path, images_seen))
    assert store.prune() == [checkpoint_name(800), checkpoint_name(1600)]
    assert store.names() == [checkpoint_name(2400)]
    fetched = fetch_latest_usable(store, tmp_path / "got")
    assert fetched is not None
    assert fetched.manifest.images_seen == 2400
    for name in (checkpoint_name(800), checkpoint_name(1600)):
        assert not [path for path in store.storage.list() if path.startswith(name)]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "hunter2hunter2"}, "refuses the credentials|access denied"),
        ({"AWS_ACCESS_KEY_ID": "nobody:here"}, "refuses the credentials|access denied"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "no credentials for the store"),
        ({"bucket": "mispelt"}, "the bucket mispelt does not exist"),
    ],
    ids=["wrong secret", "unknown key", "no key", "no bucket"],
)
def test_a_refusal_names_its_cause_and_the_store_keeps_what_it_has(
    open_store: Callable[..., CheckpointStore],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    swift: Server,
    changed: dict[str, str],
    said: str,
) -> None:
    saved = save(open_store(), make_checkpoint(tmp_path, 800))
    new = make_checkpoint(tmp_path, 1600)

    with monkeypatch.context() as patch:
        for name, value in changed.items():
            if name.startswith("AWS_"):
                patch.setenv(name, value) if value else patch.delenv(name)
        refused = open_store(changed.get("bucket", "runs"))
        for use in (
            lambda: save(refused, new),
            lambda: refused.latest(),  # must not look like a run that has no checkpoint yet
            lambda: refused.fetch(saved, tmp_path / "got"),
            lambda: fetch_latest_usable(refused, tmp_path / "got"),
        ):
            with pytest.raises(StorageProblem, match=said) as caught:
                use()
            line = str(caught.value)
            assert "\n" not in line
            assert "hunter2" not in line
            assert swift.secret_key not in line

    assert open_store().names() == [saved]
    assert open_store().fetch(saved, tmp_path / "got").images_seen == 800


@pytest.mark.parametrize(
    ("requests", "mebibytes"), [(rb"^PUT .*partNumber", 40), (rb"^GET .*large", 8)]
)
def test_parts_are_on_their_way_at_the_same_time(
    swift: Server,
    open_store: Callable[..., CheckpointStore],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    requests: bytes,
    mebibytes: int,
) -> None:
    """Four parts of an upload or a download, of which none goes on before the others are there."""
    monkeypatch.setattr("whipray.platform.storage.store.COPY_BYTES", (mebibytes << 20) // 4)
    monkeypatch.setattr("whipray.platform.storage.store.FLUSH_BYTES", mebibytes << 20)
    content = os.urandom(mebibytes << 20)
    (tmp_path / "large").write_bytes(content)
    with Proxy(swift.port) as proxy:
        config = open_store().storage.config.model_copy(update={"endpoint_url": proxy.endpoint})
        storage = Storage(config)
        storage.try_write()
        proxy.refused = re.compile(requests)
        proxy.meeting = threading.Barrier(4, timeout=WAIT_S)
        storage.put_file(tmp_path / "large", "large")
        storage.get_file("large", tmp_path / "back")
        assert not proxy.meeting.broken
    assert (tmp_path / "back").read_bytes() == content


def test_a_server_killed_during_an_upload_leaves_the_checkpoint_before(
    open_store: Callable[..., CheckpointStore], tmp_path: Path, swift: Server
) -> None:
    store = open_store()
    saved = save(store, make_checkpoint(tmp_path, 800))
    large = make_checkpoint(tmp_path, 1600, numbers=20_000_000)  # 80 MB a shard, in several parts
    used_before = used(swift)

    def kill_when_some_of_it_arrived() -> None:
        while used(swift) < used_before + (12 << 20):
            time.sleep(0.02)
        swift.kill()

    killer = threading.Thread(target=kill_when_some_of_it_arrived, daemon=True)
    killer.start()
    with pytest.raises(StorageProblem, match="does not answer"):
        store.put_shard(large.name, large / "shard-0.safetensors")
    killer.join()
    with pytest.raises(StorageProblem, match="does not answer"):
        store.commit(large.name, large / MANIFEST)

    swift.start()
    after = open_store()
    assert after.names() == [saved]
    fetched = fetch_latest_usable(after, tmp_path / "got")
    assert fetched is not None
    assert (fetched.name, fetched.damaged) == (saved, {})
    save(after, large)
    assert after.latest() == large.name
    assert after.fetch(large.name, tmp_path / "got").images_seen == 1600


def used(server: Server) -> int:
    """Bytes in the server's folder."""
    total = 0
    for path in (server.folder / "devices").rglob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # a temporary file that has just been renamed
            continue
    return total
