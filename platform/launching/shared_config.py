"""The store and MLflow as every node of a cluster can use them."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ...trainers.data.locations import in_bucket
from ...trainers.errors import UsageProblem
from ..config.experiment import WHERE_DATA_LIE, Experiment, with_values
from ..config.layers import flatten
from ..config.paths import relative_paths
from ..config.tracking import TrackingConfig
from ..foundation.addresses import check_no_secret
from ..storage.config import StorageConfig
from ..storage.store import Storage
from ..tracking.server import named_uri, tracking_uri


def for_cluster(experiment: Experiment) -> Experiment:
    """Return the experiment with the settings that this machine's environment adds to it.

    Raises:
        UsageProblem: as `check_paths`, `shared_store` and `shared_tracking`.
    """
    check_paths(relative_paths(experiment))
    storage = shared_store(experiment.storage)
    tracking = shared_tracking(experiment.tracking, storage)
    return with_values(
        experiment,
        {"storage": storage.model_dump(), "tracking.uri": tracking.uri},
        "environment",
    )


def check_paths(relative: Sequence[tuple[str, str]]) -> None:
    """Refuse relative paths: on a cluster every process has another present folder.

    Args:
        relative: key and value of each, as `relative_paths` returns them.

    Raises:
        UsageProblem: there is one.
    """
    for key, path in relative:
        raise UsageProblem(
            f"{key}={path} is relative, and no node of the cluster has the folder of this command",
            f"set {key} to an absolute path at which every node has it"
            + (" or, with data.download, may write it" if key == "data.root" else ""),
        )


def describe_data_paths(experiment: Experiment) -> str | None:
    """Return what every node must have at the same path; None for data that lie nowhere."""
    values = {f"data.{key}": value for key, value in flatten(experiment.data).items()}
    paths = [
        f"{key}={values[key]}"
        for key in WHERE_DATA_LIE
        if isinstance(values.get(key), str) and not in_bucket(values[key])
    ]
    if not paths:
        return None
    return f"{', '.join(paths)}, on every node: copy it there first, or mount it"


def shared_store(config: StorageConfig) -> StorageConfig:
    """Return the store with the endpoint and region of the environment.

    Raises:
        UsageProblem: a relative folder, which other machines do not share.
    """
    if not config.uri.startswith(("s3://", "/")):
        raise UsageProblem(
            f"the store {config.uri} is a folder of this machine alone",
            "give --storage s3://bucket/prefix, or an absolute folder that all nodes share; or set "
            "WHIPRAY_STORAGE to it",
        )
    if not config.uri.startswith("s3://"):
        return config
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return config.model_copy(
        update={
            "endpoint_url": config.endpoint_url or endpoint,
            "region": config.region or region,
        }
    )


def shared_tracking(config: TrackingConfig, storage: StorageConfig) -> TrackingConfig:
    """Return the tracking config with the URI that the cluster will use.

    Raises:
        UsageProblem: no server is named for runs in a bucket, or its address holds a login or options.
    """
    uri = config.uri or named_uri()
    if uri is None and not storage.uri.startswith("s3://"):
        return config  # a database in the store
    # Everyone who can list the job sees it.
    uri = check_no_secret(
        tracking_uri(config, Storage(storage)),
        "MLflow's address",
        "give the address alone, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD on "
        "the nodes",
    )
    return config.model_copy(update={"uri": uri})
