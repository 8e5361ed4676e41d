"""The options that name a store and its MLflow, the same in every verb.

A verb takes them as one parameter:

    @with_store_options
    def verb(target: ..., store: StoreOptions, as_json: Json = False) -> None: ...
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from ...trainers.errors import UsageProblem

if TYPE_CHECKING:  # imported on use, so that `--help` is quick
    from ..config.experiment import Experiment
    from ..storage.config import StorageConfig
    from ..storage.store import Storage
    from ..tracking.tracker import Tracker
    from ..tracking.versions import Version

StorageUri = Annotated[
    str | None,
    typer.Option(
        "--storage",
        help="Store of the runs: a folder or s3://bucket/prefix; default: WHIPRAY_STORAGE, "
        "whipray.toml, or ./whipray-runs.",
    ),
]
Endpoint = Annotated[str | None, typer.Option("--endpoint", help="URL of the S3 server.")]
TrackingUri = Annotated[
    str | None,
    typer.Option(
        "--tracking",
        help="MLflow's tracking URI; default: MLFLOW_TRACKING_URI, whipray.toml, or a "
        "database in the store.",
    ),
]


KEYS = {"storage": "storage.uri", "endpoint": "storage.endpoint_url", "tracking": "tracking.uri"}
"""Key of a config that each option stands for."""


@dataclass(frozen=True)
class StoreOptions:
    """The options --storage, --endpoint and --tracking."""

    storage: StorageUri = None
    endpoint: Endpoint = None
    tracking: TrackingUri = None

    def config(self) -> StorageConfig:
        """Return the store's configuration.

        Raises:
            UsageProblem: not a folder, bucket or URL.
        """
        from pydantic import ValidationError

        from ..storage.config import StorageConfig

        given = {"uri": self.storage, "endpoint_url": self.endpoint}
        try:
            return StorageConfig.model_validate({k: v for k, v in given.items() if v})
        except ValidationError as error:
            first = error.errors()[0]
            option = "--storage" if first["loc"] == ("uri",) else "--endpoint"
            reason = first.get("ctx", {}).get("error", first["msg"])
            raise UsageProblem(f"{option} {first['input']} cannot be used", str(reason)) from error

    def overrides(self, given: Sequence[str]) -> list[str]:
        """Return the options as overrides of a config, before those that were given.

        Raises:
            UsageProblem: an option and its override are both given.
        """
        from ..config.yaml12 import dump_scalar

        keys = {override.partition("=")[0].strip() for override in given}
        options = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and {KEYS[field.name], KEYS[field.name].partition(".")[0]} & keys:
                raise UsageProblem(
                    f"--{field.name} and {KEYS[field.name]} are the same, and both are given",
                    "give one of them",
                )
            if value is not None:
                options.append(f"{KEYS[field.name]}={dump_scalar(value)}")
        return [*options, *given]

    @property
    def words(self) -> list[str]:
        """The options as they were given, for a command to run next."""
        values = {f"--{field.name}": getattr(self, field.name) for field in fields(self)}
        return [word for name, value in values.items() if value for word in (name, value)]

    def open(self) -> Storage:
        """Open the store; without options, the default one."""
        from ..storage.store import Storage

        return Storage(self.config())

    def open_tracker(self) -> Tracker:
        """Open MLflow at --tracking, by default the one in the store, to read it."""
        from ..config.tracking import TrackingConfig
        from ..tracking.tracker import open_existing_tracker

        return open_existing_tracker(TrackingConfig(uri=self.tracking), self.open())

    def registered_versions(self) -> list[Version]:
        """Return all registered versions, by name, the newest of each first; without MLflow if possible.

        Raises:
            UsageProblem: nothing is recorded yet.
        """
        from ..config.tracking import TrackingConfig
        from ..tracking.records import registered_versions

        return registered_versions(TrackingConfig(uri=self.tracking), self.open())

    def known_versions(self) -> list[Version] | None:
        """Return the same; None where nothing is recorded and no MLflow is named."""
        from ..config.tracking import TrackingConfig
        from ..tracking.records import known_versions

        return known_versions(TrackingConfig(uri=self.tracking), self.open())

    def has_recorded_runs(self) -> bool:
        """Return whether MLflow has a run of Whipray's."""
        from ..config.tracking import TrackingConfig
        from ..tracking.records import has_runs
        from ..tracking.server import existing_database

        database = existing_database(TrackingConfig(uri=self.tracking), self.open())
        known = None if database is None else has_runs(database)
        return self.open_tracker().has_runs() if known is None else known


def options_of(experiment: Experiment) -> StoreOptions:
    """Return the options that name the store and MLflow of an experiment; none for the defaults."""
    from ..storage.config import default_endpoint, default_uri
    from ..tracking.server import named_uri

    storage, tracking = experiment.storage, experiment.tracking
    uri = None if storage.uri == default_uri() else storage.uri
    url = None if storage.endpoint_url == default_endpoint() else storage.endpoint_url
    return StoreOptions(uri, url, None if tracking.uri == named_uri() else tracking.uri)


def with_store_options(verb: Callable[..., None]) -> Callable[..., None]:
    """Replace a verb's parameter of type `StoreOptions` by three options on the command line.

    Typer makes one option of each parameter in a function's signature; it has no groups of options.
    """
    hints = get_type_hints(verb, include_extras=True)
    group = next(name for name, hint in hints.items() if hint is StoreOptions)
    options = get_type_hints(StoreOptions, include_extras=True)
    names = [field.name for field in fields(StoreOptions)]

    @wraps(verb)
    def command(**arguments: Any) -> None:
        store = StoreOptions(**{name: arguments.pop(name) for name in names})
        verb(**arguments, **{group: store})

    own = [each for each in inspect.signature(verb).parameters.values() if each.name != group]
    parameters = [_keyword(each.name, hints[each.name], each.default) for each in own]
    parameters += [_keyword(name, options[name], None) for name in names]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, annotation=annotation, default=default)
