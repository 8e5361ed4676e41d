#!/usr/bin/env bash
# Starts MLflow with basic auth; arguments go to `mlflow server`. Runs are kept in
# MLFLOW_BACKEND_STORE_URI, by default an SQLite file; images and models in MLFLOW_ARTIFACTS_DESTINATION.
# The administrator's name and password are those with which Whipray logs in.
set -euo pipefail
# shellcheck source=environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
missing="is not set: put it into ~/.whipray/cluster.env, as infra/README.md says"
: "${MLFLOW_FLASK_SERVER_SECRET_KEY:?$missing}" "${MLFLOW_ARTIFACTS_DESTINATION:?$missing}"
export MLFLOW_AUTH_ADMIN_USERNAME=${MLFLOW_TRACKING_USERNAME:?$missing}
export MLFLOW_AUTH_ADMIN_PASSWORD=${MLFLOW_TRACKING_PASSWORD:?$missing}
folder=${WHIPRAY_MLFLOW_FOLDER:-$HOME/.whipray/mlflow}
mkdir -p "$folder"
export MLFLOW_BACKEND_STORE_URI=${MLFLOW_BACKEND_STORE_URI:-sqlite:///$folder/mlflow.db}
export MLFLOW_AUTH_CONFIG_PATH=$folder/auth.ini
# The users live in the same database. A password in its address does not get here: PGPASSWORD has it.
cat > "$MLFLOW_AUTH_CONFIG_PATH" <<END
[mlflow]
default_permission = NO_PERMISSIONS
database_uri = $MLFLOW_BACKEND_STORE_URI
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
END
exec mlflow server --app-name basic-auth --workers 2 --port "$WHIPRAY_MLFLOW_PORT" "$@"
