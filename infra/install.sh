#!/usr/bin/env bash
# Installs what a node needs into .venv beside this folder: the extras `run` and `imagenet` and MLflow's
# server, at the versions of constraints.txt. `install.sh cpu` leaves CUDA's libraries out. Whipray's own code is not
# among it: jobs bring theirs. A second time it changes nothing. Needs python3 with pip.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=settings.env
. infra/settings.env
case ${1:-cuda} in
  cuda) ;;
  cpu) export UV_TORCH_BACKEND=cpu ;;
  *) echo "usage: install.sh [cpu|cuda]" >&2; exit 2 ;;
esac
uv=.tools/bin/uv
[ -x "$uv" ] || python3 -m pip install --quiet --disable-pip-version-check --target .tools "uv==$WHIPRAY_UV"
"$uv" venv --quiet --allow-existing --python "$WHIPRAY_PYTHON" .venv
"$uv" pip install --quiet -p .venv/bin/python -c constraints.txt \
  -r pyproject.toml --extra run --extra imagenet 'mlflow[auth]' psycopg2-binary
