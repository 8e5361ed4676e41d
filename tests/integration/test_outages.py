"""Servers that go away for a while, in the middle of a training: nothing is lost, nothing doubled."""

from __future__ import annotations

import json
import os
import pickle
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory

import pytest
from support.outages import train_until_asked_to_wait
from support.proxy import EXPIRED_TOKEN, Proxy
from support.servers import MLflowServer, Server
from support.shell import TINY, WAIT_S, Shell
from support.training import BATCH, at, tiny
from support.workers import Workers

from whipray.platform.config.tracking import TrackingConfig
from whipray.platform.storage.checkpoints import CheckpointStore
from whipray.platform.storage.config import StorageConfig
from whipray.platform.storage.errors import StorageOutage, StorageProblem
from whipray.platform.storage.objects import Bucket
from whipray.platform.storage.store import Storage
from whipray.platform.tracking import mlflow_runs
from whipray.platform.tracking.errors import TrackingOutage, TrackingProblem
from whipray.platform.tracking.mlflow_runs import Run
from whipray.platform.tracking.tracker import Tracker, open_tracker
from whipray.platform.tuning.study_in_bucket import BucketStorage
from whipray.trainers import slow_connections
from whipray.trainers.checkpoint_names import checkpoint_name
from whipray.trainers.data import bucket_files
from whipray.trainers.data.bucket_files import BucketOutage
from whipray.trainers.data.locations import open_files
from whipray.trainers.errors import Problem
from whipray.trainers.retry import Outage

pytestmark = [pytest.mark.slow, pytest.mark.faults]

DOWN_S = 10
HALF = 4 * BATCH


@pytest.fixture
def bucket(swift: Server, monkeypatch: pytest.MonkeyPatch) -> StorageConfig:
    for name, value in swift.environment().items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{os.urandom(4).hex()}"
    swift.make_bucket(name)
    return StorageConfig(uri=f"s3://{name}/runs", endpoint_url=swift.endpoint)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# -- the store --------------------------------------------------------------------------------------


def test_a_store_that_is_down_for_a_while_costs_a_training_nothing(
    swift: Server, bucket: StorageConfig, tmp_path: Path
) -> None:
    """It is killed before the checkpoint at half time is written, by two workers."""
    request = tmp_path / "request"
    run, undisturbed = Storage(bucket), at(tmp_path / "undisturbed")
    with Workers(2) as workers, ThreadPoolExecutor() as pool:
        train = (train_until_asked_to_wait, tiny())
        training = pool.submit(workers.run, *train, run, HALF, request)
        wait_until(lambda: request.exists() or training.done())
        assert not training.done(), training.result()
        swift.kill()
        request.unlink()
        time.sleep(DOWN_S)
        assert not training.done()
        swift.start()
        losses = training.result()
        expected = workers.run(*train, undisturbed, 0, request)
    assert losses == expected
    names = CheckpointStore(run).names()
    assert (
        names
        == CheckpointStore(undisturbed).names()
        == [checkpoint_name(HALF), checkpoint_name(2 * HALF)]
    )
    for name in names:
        found, wanted = (
            CheckpointStore(where).fetch(name, tmp_path) for where in (run, undisturbed)
        )
        assert found.content_hash() == wanted.content_hash()


def test_an_upload_that_is_cut_is_done_again(
    swift: Server, bucket: StorageConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = os.urandom(24 << 20)
    (tmp_path / "shard").write_bytes(content)
    with Proxy(swift.port) as proxy:
        store = Storage(bucket.model_copy(update={"endpoint_url": proxy.endpoint}))
        store.try_write()
        proxy.uploads_to_cut = 12  # the S3 client itself tries three times
        store.put_file(tmp_path / "shard", "shard")
        assert proxy.uploads_to_cut == 0
    assert "trying again" in caplog.text
    Storage(bucket).get_file("shard", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content


THROTTLED = {
    "PUT": r"^PUT ",
    "LIST": r"^GET .*list-type=2",
    "HEAD": r"^HEAD ",
    "GET": r"^GET (?!.*list-type)",
    "start of a multipart upload": r"^POST .*uploads",
    "part of a multipart upload": r"^PUT .*partNumber",
    "end of a multipart upload": r"^POST .*uploadId",
}


@pytest.mark.parametrize("requests", THROTTLED.values(), ids=THROTTLED)
def test_throttling_is_waited_for_whatever_is_asked(
    swift: Server,
    bucket: StorageConfig,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    requests: str,
) -> None:
    content = os.urandom(12 << 20)
    (tmp_path / "shard").write_bytes(content)
    with Proxy(swift.port) as proxy:
        store = Storage(bucket.model_copy(update={"endpoint_url": proxy.endpoint}))
        store.try_write()
        proxy.refused = re.compile(requests.encode())
        proxy.requests_to_refuse = 5  # the S3 client itself tries three times
        store.put_file(tmp_path / "shard", "run/shard")
        store.write_text("run/note.txt", "hello")
        assert store.list("run") == {"run/note.txt": 5, "run/shard": len(content)}
        assert store.size_of("run/shard") == len(content)
        store.get_file("run/shard", tmp_path / "back")
        assert proxy.requests_to_refuse == 0
    assert (tmp_path / "back").read_bytes() == content
    assert "trying again" in caplog.text


def test_throttling_that_lasts_is_waited_for_as_long_as_is_asked(
    swift: Server, bucket: StorageConfig
) -> None:
    with Proxy(swift.port) as proxy:
        changes = {"endpoint_url": proxy.endpoint, "retry_timeout_s": 12}
        store = Storage(bucket.model_copy(update=changes))
        store.try_write()
        proxy.requests_to_refuse = 10**6
        began = time.monotonic()
        with pytest.raises(StorageOutage, match="asks to slow down"):
            store.write_text("note.txt", "hello")
        assert time.monotonic() - began >= 12


def test_a_study_waits_for_throttling_that_lasts_as_long_as_is_asked(
    swift: Server, bucket: StorageConfig
) -> None:
    with Proxy(swift.port) as proxy:
        changes = {"endpoint_url": proxy.endpoint, "retry_timeout_s": 12}
        study = BucketStorage(Storage(bucket.model_copy(update=changes)))
        proxy.requests_to_refuse = 10**6
        began = time.monotonic()
        with pytest.raises(StorageOutage, match="asks to slow down"):
            study.journal.append_logs([{}])
        assert time.monotonic() - began >= 12
        proxy.requests_to_refuse = 5  # the S3 client itself tries three times
        study.journal.append_logs([{}])
        study.close()


def read_object(store: Storage) -> object:
    return Bucket(store).get("object")


def write_object(store: Storage) -> object:
    return Bucket(store).put("other", "hello")


def put_shard(store: Storage) -> object:
    with NamedTemporaryFile() as file:
        return store.put_file(Path(file.name), "shard")


def get_shard(store: Storage) -> object:
    with TemporaryDirectory() as folder:
        return store.get_file("object", Path(folder) / "object")


@pytest.mark.parametrize(
    "request_something", [get_shard, put_shard, Storage.list, read_object, write_object]
)
def test_a_store_that_answers_a_few_bytes_a_second_is_an_outage(
    swift: Server,
    bucket: StorageConfig,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    request_something: Callable[[Storage], object],
) -> None:
    monkeypatch.setattr(slow_connections, "WINDOW_S", 1.0)
    monkeypatch.setattr(slow_connections, "SAMPLES", 4)
    with Proxy(swift.port) as proxy, ThreadPoolExecutor() as pool:
        store = Storage(bucket.model_copy(update={"endpoint_url": proxy.endpoint}))
        store.write_text("object", "x" * 300_000)
        proxy.trickles = True
        waiting = pool.submit(request_something, store)
        wait_until(lambda: "it is cut" in caplog.text or waiting.done())
        assert not waiting.done(), waiting.result()
        proxy.trickles = False
        waiting.result()


def test_a_store_that_stays_slow_ends_a_request_with_a_reason(
    swift: Server, bucket: StorageConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow_connections, "WINDOW_S", 1.0)
    monkeypatch.setattr(slow_connections, "SAMPLES", 4)
    with Proxy(swift.port) as proxy:
        changes = {"endpoint_url": proxy.endpoint, "retry_timeout_s": 0}
        store = Storage(bucket.model_copy(update=changes))
        store.write_text("object", "x" * 300_000)
        proxy.trickles = True
        with pytest.raises(StorageOutage, match="does not answer"):
            store.read_text("object")
        with pytest.raises(StorageOutage, match="does not answer"):
            Bucket(store).get("object")


def test_images_that_come_a_few_bytes_a_second_are_asked_for_again(
    swift: Server,
    bucket: StorageConfig,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(slow_connections, "WINDOW_S", 1.0)
    monkeypatch.setattr(slow_connections, "SAMPLES", 4)
    with Proxy(swift.port) as proxy, ThreadPoolExecutor() as pool:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        files = open_files(f"{bucket.uri}/images")
        files.write("shard", bytes(300_000))
        proxy.trickles = True
        whole, part = (pool.submit(files.read, "shard", *rows) for rows in ((), (9, 200_000)))
        wait_until(lambda: caplog.text.count("it is cut") > 1 or whole.done() or part.done())
        assert not whole.done()
        assert not part.done()
        proxy.trickles = False
        assert (len(whole.result()), len(part.result())) == (300_000, 200_000)


def test_a_bucket_that_asks_to_slow_down_while_a_file_is_read_is_asked_again(
    swift: Server, bucket: StorageConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(3_000_000)
    with Proxy(swift.port) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        files = open_files(f"{bucket.uri}/images")
        files.write("shard.tar", content)
        with files.open("shard.tar") as stream:
            assert stream.read(100) == content[:100]
            proxy.refused = re.compile(rb"GET .*shard")
            proxy.requests_to_refuse = 5  # the S3 client itself tries three times
            stream.seek(-2_000_000, os.SEEK_END)
            assert stream.read() == content[-2_000_000:]
            assert proxy.requests_to_refuse == 0
            proxy.requests_to_refuse = 10**6
            monkeypatch.setattr(bucket_files, "PATIENCE_S", 1.0)
            stream.seek(0)
            with pytest.raises(BucketOutage, match="does not answer, or asks to slow down"):
                stream.read()


def take_the_bucket_away(swift: Server, bucket: StorageConfig, _: pytest.MonkeyPatch) -> None:
    import boto3

    key = {"aws_access_key_id": swift.access_key, "aws_secret_access_key": swift.secret_key}
    s3 = boto3.resource("s3", endpoint_url=swift.endpoint, region_name="us-east-1", **key)
    gone = s3.Bucket(bucket.uri.split("/")[2])
    gone.objects.delete()  # the marks of its folders
    gone.delete()


def lose_the_key(_: Server, __: StorageConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2hunter2")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [(take_the_bucket_away, "the bucket .* does not exist"), (lose_the_key, "credentials|denied")],
)
def test_what_a_store_refuses_is_not_asked_for_again(
    swift: Server,
    bucket: StorageConfig,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[Server, StorageConfig, pytest.MonkeyPatch], None],
    said: str,
) -> None:
    store = Storage(bucket)
    store.try_write()
    spoil(swift, bucket, monkeypatch)
    # below it, for a new connection that reads the keys again; that it has answered is known
    with pytest.raises(StorageProblem, match=said):
        store.child("run").write_text("note.txt", "hello")
    assert "trying again" not in caplog.text


# -- MLflow -----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")
def test_files_of_mlflow_in_a_bucket_wait_for_it_as_the_store_does(
    swift: Server,
    bucket: StorageConfig,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As with an SQLite database beside a bucket, or a server that does not serve its artifacts."""
    # MLflow uses boto3's session of the process, which keeps the login of whatever server was first.
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)
    monkeypatch.setattr(mlflow_runs, "RETRY_TIMEOUT_S", 20.0)
    with Proxy(swift.port) as proxy:
        config = TrackingConfig(uri=f"sqlite:///{tmp_path}/mlflow.db")
        store = Storage(bucket.model_copy(update={"endpoint_url": proxy.endpoint}))
        tracker = open_tracker(config, store)
        # of a bucket, which is what a server names that does not serve them
        tracker.experiment_id = tracker.client.create_experiment("bucket", store.uri)
        run = tracker.run("run", "run", {})
        proxy.refused = re.compile(b"^PUT ")
        proxy.requests_to_refuse = 6  # MLflow's S3 client itself tries five times
        run.log_text("hello", "note.txt")
        assert proxy.requests_to_refuse == 0
        assert "asks to slow down (SLOW_DOWN); trying again" in caplog.text
        proxy.refusal, proxy.requests_to_refuse = EXPIRED_TOKEN, 10**6
        with pytest.raises(TrackingProblem, match="the session token has expired") as caught:
            run.log_text("hello", "note.txt")
        assert not isinstance(caught.value, Outage)
    monkeypatch.setattr(mlflow_runs, "RETRY_TIMEOUT_S", 0.0)
    with pytest.raises(TrackingOutage, match=r"the store at .* does not answer"):
        Run(run.uri, run.run_id).log_file(tmp_path / "mlflow.db", "folder")


@pytest.fixture
def logged_in(mlflow_server: MLflowServer, monkeypatch: pytest.MonkeyPatch) -> MLflowServer:
    for name, value in mlflow_server.environment().items():
        monkeypatch.setenv(name, value)
    return mlflow_server


def track(address: str, folder: Path) -> Tracker:
    config = TrackingConfig(uri=address, experiment="outages")
    return open_tracker(config, Storage(StorageConfig(uri=str(folder))))


def history(tracker: Tracker, run_id: str, name: str) -> list[tuple[int, float]]:
    """(step, value) of a metric, in the order in which they were logged."""
    found = tracker.client.get_metric_history(run_id, name)
    return [(m.step, m.value) for m in sorted(found, key=lambda m: (m.timestamp, m.step))]


def test_a_training_does_not_wait_for_mlflow_and_ends_with_all_its_metrics(
    logged_in: MLflowServer, tmp_path: Path
) -> None:
    """The server dies after the first reports and is back after the last."""
    command = ("train", "digits-demo", "--run", "tiny", *TINY, "training.images=6400", "--json")
    quiet, disturbed = (shell_in(tmp_path / name) for name in ("quiet", "disturbed"))
    tracker = track(logged_in.endpoint, tmp_path)
    environment = {"MLFLOW_TRACKING_URI": logged_in.endpoint, **logged_in.environment()}
    own = f"tracking.experiment={quiet.folder.name}"  # beside the run that goes by the same name
    code, out, err = quiet.run(*command, own, **environment)
    assert code == 0, err
    expected = history(tracker, json.loads(out)["mlflow_run"], "loss/total")
    assert [step for step, _ in expected] == list(range(320, 6401, 320))

    checkpoints = disturbed.folder / "whipray-runs/runs/tiny/checkpoints"
    with disturbed.start(*command, **environment) as process:
        wait_until(lambda: list(checkpoints.glob("*/manifest.json")) != [])
        logged_in.kill()
        try:
            wait_until(lambda: (checkpoints / checkpoint_name(6400) / "manifest.json").exists())
            time.sleep(DOWN_S)
            assert process.poll() is None
        finally:
            logged_in.start()
        out, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, err
    assert "does not answer" in err
    assert "it answers again" in err
    assert history(tracker, json.loads(out)["mlflow_run"], "loss/total") == expected


def shell_in(folder: Path) -> Shell:
    folder.mkdir()
    return Shell(folder)


def test_an_answer_that_is_lost_doubles_nothing(
    logged_in: MLflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with Proxy(logged_in.port) as proxy:
        run = track(proxy.endpoint, tmp_path).run("lost", "lost", {})
        proxy.answers_to_lose = 2
        for report in range(5):
            run.log_metrics({"loss": report / 2}, report)
        run.finish("FINISHED")
        assert proxy.answers_to_lose == 0
    found = history(track(logged_in.endpoint, tmp_path), run.run_id, "loss")
    assert found == [(report, report / 2) for report in range(5)]


def test_metrics_that_nobody_takes_end_in_a_problem(
    logged_in: MLflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(mlflow_runs, "RETRY_TIMEOUT_S", 1.0)
    with Proxy(logged_in.port) as proxy:
        run = track(proxy.endpoint, tmp_path).run("gone", "gone", {})
        proxy.go_down()
        run.log_metrics({"loss": 0.5, "lr": 0.1}, 1)
        with pytest.raises(Problem, match="2 values could not be written: waited for 0:01"):
            run.finish("FINISHED")


def test_a_copy_in_another_process_flushes_with_the_server_or_without(
    logged_in: MLflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Ray Train's controller and tasks have it, which do not `finish` the run."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracker = track(logged_in.endpoint, tmp_path)
    with Proxy(logged_in.port) as proxy:
        run = track(proxy.endpoint, tmp_path).run("copy", "copy", {})
        copy: Run = pickle.loads(pickle.dumps(run))
        copy.log_metrics({"loss": 0.0}, 0)
        copy.flush_best_effort()
        assert history(tracker, run.run_id, "loss") == [(0, 0.0)]
        proxy.go_down()
        copy.log_metrics({"loss": 1.0}, 1)
        copy.log_metrics({"loss": 2.0}, 2)
        copy.flush_best_effort()
        assert history(tracker, run.run_id, "loss") == [(0, 0.0)]
        proxy.come_back()
        wait_until(lambda: len(history(tracker, run.run_id, "loss")) == 3)
        proxy.go_down()
        back = threading.Timer(1.0, proxy.come_back)
        back.start()
        copy.log_metrics({"loss": 3.0}, 3)
        copy.flush()
        back.join()
        expected = [(step, float(step)) for step in range(4)]
        assert history(tracker, run.run_id, "loss") == expected


def test_metrics_that_are_refused_stop_the_training(
    logged_in: MLflowServer, tmp_path: Path
) -> None:
    tracker = track(logged_in.endpoint, tmp_path)
    run = tracker.run("deleted", "deleted", {})
    tracker.client.delete_run(run.run_id)
    run.log_metrics({"loss": 0.5}, 1)
    with pytest.raises(TrackingProblem, match="failed"):
        run.finish("FINISHED")
    assert tracker.client.get_run(run.run_id).info.status != "FINISHED"
    with pytest.raises(TrackingProblem, match="failed"):
        run.log_metrics({"loss": 0.4}, 2)
