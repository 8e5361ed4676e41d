#!/usr/bin/env bash
# On a spot machine of AWS or Google Cloud: waits for the notice that it will be taken away and passes it on
# to Ray, so that the trainings with workers here save. AWS says so two minutes before, Google Cloud half
# a minute.
set -euo pipefail
# shellcheck source=environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

aws_notice() {
  local at=${AWS_EC2_METADATA_SERVICE_ENDPOINT:-http://169.254.169.254}/latest token
  token=$(ask -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$at/api/token")
  # there is no such page until there is something to say
  [[ $(ask -H "X-aws-ec2-metadata-token: $token" "$at/meta-data/spot/instance-action") == *'"action"'* ]]
}

gcp_notice() {
  local at=http://${GCE_METADATA_HOST:-metadata.google.internal}/computeMetadata/v1
  [ "$(ask -H 'Metadata-Flavor: Google' "$at/instance/preempted")" = TRUE ]
}

ask() { # a server that does not answer has said nothing; the next time it may
  curl --silent --fail --max-time 5 --noproxy '*' "$@" || true
}

exec 9< "${BASH_SOURCE[0]}"
flock --nonblock 9 || exit 0 # one is watching already
while :; do # on either cloud, the other one's server is not there
  if aws_notice; then grace_s=120 && break; fi
  if gcp_notice; then grace_s=30 && break; fi
  sleep 2
done
ends=$((SECONDS + grace_s))
echo "$(date -Is): this machine will be taken away in $grace_s s"
until ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION --reason-message "the cloud's notice" \
  --deadline-remaining-seconds $((ends > SECONDS ? ends - SECONDS : 0)); do
  sleep 1
done
