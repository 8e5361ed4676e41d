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
# A machine's own disks, which hold more than its first one and are faster.
for whipray_local in /opt/dlami/nvme /mnt/local; do
  if [ -d "$whipray_local" ] && [ -w "$whipray_local" ]; then
    mkdir -p "$whipray_local/tmp"
    export TMPDIR=${TMPDIR:-$whipray_local/tmp} WHIPRAY_CACHE=${WHIPRAY_CACHE:-$whipray_local/cache}
  fi
done
# NCCL finds EFA through this library of Amazon's image.
if [ -d /opt/amazon/ofi-nccl/lib ]; then
  export LD_LIBRARY_PATH=/opt/amazon/ofi-nccl/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
fi
