"""MLflow's failures in one line each, without secrets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ...trainers.disk import OF_A_DISK, disk_problem
from ...trainers.errors import Problem
from ...trainers.retry import Outage
from ...trainers.slow_connections import cutting_slow_connections, port_of
from ..foundation.text import redact
from ..storage.errors import boto3_problem, raised_by_boto3
from ..storage.s3 import endpoint
from .database_errors import describe_refusal, describe_wait
from .server import sqlite_file


class TrackingProblem(Problem):
    """The tracking server refused, failed or could not be reached."""


class TrackingOutage(TrackingProblem, Outage):
    """The tracking server does not answer, or fails by itself."""


@contextmanager
def translate_errors(uri: str) -> Iterator[None]:
    """Raise MLflow's failures as `TrackingProblem`.

    Args:
        uri: of the server; a login in it is not shown.
    """
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    server = uri if uri.startswith("http") else None
    ports = {port_of(server), port_of(endpoint(None))}  # of MLflow, and of its files in S3
    try:
        with cutting_slow_connections(ports):
            yield
    except RequestException as error:  # an OSError, too
        raise _problem(f"MLflow at {redact(uri)}", error) from error
    except (MlflowException, SQLAlchemyError) as error:
        raise _database_problem(uri, error) or _problem(
            f"MLflow at {redact(uri)}", error
        ) from error
    except OSError as error:  # of its artifacts, in a folder
        if error.errno not in OF_A_DISK:
            raise
        raise disk_problem(error, error.filename or f"files of MLflow at {redact(uri)}") from error
    except Exception as error:
        # The artifacts of a database, and those of a server that does not serve them, go to S3 from here.
        if not raised_by_boto3(error):
            raise
        problem = boto3_problem(error, None, f"files of MLflow at {redact(uri)}")
        kind = TrackingOutage if isinstance(problem, Outage) else TrackingProblem
        raise kind(problem.what, problem.fix) from error


def _database_problem(uri: str, error: Exception) -> TrackingProblem | None:
    """Return the problem of a database that this process opens itself; None for anything else."""
    if uri.startswith(("http://", "https://", "databricks")):
        return None
    file = sqlite_file(uri)
    where = f"MLflow's database {file or redact(uri)}"
    if refusal := describe_refusal(error, file, redact(uri)):
        return TrackingProblem(f"{where} {refusal[0]}", refusal[1])
    if wait := describe_wait(error, file):
        return TrackingOutage(f"{where} {wait[0]}", wait[1])
    return None


def _problem(where: str, error: Exception) -> TrackingProblem:
    from requests.exceptions import RequestException

    code, status = type(error).__name__, 0
    if isinstance(error, RequestException):  # of the artifact store; no answer counts as a 503
        status = 503 if error.response is None else error.response.status_code
    elif http := getattr(error, "get_http_status_code", None):
        code, status = str(getattr(error, "error_code", code)), int(http())
    if status == 401:
        return TrackingProblem(
            f"{where} refuses the login: none was given, or a wrong one",
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
        )
    if status == 403:
        return TrackingProblem(
            f"{where}: this user may not do that",
            "ask for the right, or log in as another user with MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD",
        )
    fix = "check --tracking and that the server runs: `whipray doctor` tries each part"
    if status == 429 or status >= 500:
        return TrackingOutage(f"{where} does not answer, or fails by itself ({code})", fix)
    return TrackingProblem(f"{where} failed ({code})", fix)
