# shellcheck shell=bash
# What the scripts here, a laptop's shell and the nodes' shells have in common: settings, secrets and
# the virtual environment beside this folder. To be sourced: `. infra/environment.sh`.
whipray_infra=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
whipray_secrets=${WHIPRAY_SECRETS:-$HOME/.whipray/cluster.env}
set -a
# shellcheck source=settings.env
. "$whipray_infra/settings.env"
if [ -f "$whipray_secrets" ]; then
  # shellcheck source=/dev/null
  . "$whipray_secrets"
fi
set +a
PATH=$whipray_infra/../.venv/bin:$PATH
