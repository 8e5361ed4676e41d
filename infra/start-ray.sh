#!/usr/bin/env bash
# Starts Ray on this machine: `start-ray.sh head`, or `start-ray.sh worker ADDRESS-OF-THE-HEAD`; further
# arguments go to `ray start`. WHIPRAY_NODE_IP says which of several networks Ray uses.
set -euo pipefail
# shellcheck source=environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
: "${RAY_AUTH_TOKEN:?is not set: put it into ~/.whipray/cluster.env, as infra/README.md says}"
# Ray keeps a connection open to every worker process.
ulimit -Sn 65536 2> /dev/null || ulimit -Sn "$(ulimit -Hn)"
ulimit -Sl "$(ulimit -Hl)" # NCCL locks the memory that EFA and InfiniBand read
node=()
if [ -n "${WHIPRAY_NODE_IP:-}" ]; then node=(--node-ip-address="$WHIPRAY_NODE_IP"); fi
case ${1:-} in
  head)
    shift
    # On the nodes' own network: Ray's workers ask the dashboard's State API, so loopback will not do.
    address=${WHIPRAY_NODE_IP:-$(python -c 'import ray.util; print(ray.util.get_node_ip_address())')}
    exec ray start --head --port="$WHIPRAY_RAY_PORT" --dashboard-host="$address" \
      --dashboard-port="$WHIPRAY_DASHBOARD_PORT" "${node[@]}" "$@"
    ;;
  worker)
    if [ -n "${2:-}" ]; then
      exec ray start --address="$2:$WHIPRAY_RAY_PORT" "${node[@]}" "${@:3}"
    fi
    ;;
esac
echo "usage: start-ray.sh head [OPTION]... | start-ray.sh worker ADDRESS [OPTION]..." >&2
exit 2
