"""A driver of a study in a bucket, as a process of its own: two threads write, as in a sweep.

    python study_driver.py s3://bucket/folder ENDPOINT RENEW_S

It waits for a line, opens the study, prints `driving`, and then each entry that was accepted until
its input ends; or it prints why it may not.
"""

from __future__ import annotations

import os
import sys
from itertools import count, takewhile
from threading import Event, Thread

from optuna.study import StudyDirection

from whipray.platform.storage import writer_lock
from whipray.platform.storage.config import StorageConfig
from whipray.platform.storage.store import Storage
from whipray.platform.tuning.study_in_bucket import BucketStorage
from whipray.trainers.errors import UsageProblem

over = Event()


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())  # whole, also from two threads


def write(storage: BucketStorage, study: int, writer: str) -> None:
    for number in takewhile(lambda _: not over.is_set(), count()):
        entry = f"{os.getpid()}-{writer}-{number}"
        try:
            storage.set_study_user_attr(study, entry, number)
        except UsageProblem as problem:
            say(problem.what)
            return
        say(entry)


def main(uri: str, endpoint: str, renew_s: str) -> None:
    writer_lock.RENEW_S = float(renew_s)
    store = Storage(StorageConfig(uri=uri, endpoint_url=endpoint))
    say("ready")
    sys.stdin.readline()
    try:
        storage = BucketStorage(store)
    except UsageProblem as problem:
        say(problem.what)
        return
    say("driving")
    studies = storage.get_all_studies()
    study = studies[0]._study_id if studies else storage.create_new_study([StudyDirection.MINIMIZE])
    writers = [Thread(target=write, args=(storage, study, name)) for name in "ab"]
    for writer in writers:
        writer.start()
    sys.stdin.read()
    over.set()
    for writer in writers:
        writer.join()
    storage.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
