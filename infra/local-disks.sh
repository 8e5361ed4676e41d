#!/usr/bin/env bash
# Joins the disks that a Google Cloud machine has of its own to one at /mnt/local, for the cache and TMPDIR.
# On AWS the image does so itself, at /opt/dlami/nvme. environment.sh uses either. A second time, and on a
# machine without such disks, it changes nothing.
set -euo pipefail
shopt -s nullglob
disks=(/dev/disk/by-id/google-local-nvme-ssd-[0-9]*)
for number in "${!disks[@]}"; do # not their parts
  if [[ ${disks[number]} == *-part* ]]; then unset "disks[number]"; fi
done
if [ "${#disks[@]}" = 0 ] || mountpoint --quiet /mnt/local; then exit 0; fi
sudo mdadm --create /dev/md/local --run --force --level=0 --raid-devices="${#disks[@]}" "${disks[@]}"
sudo mkfs.ext4 -q -F /dev/md/local
sudo mkdir -p /mnt/local
sudo mount /dev/md/local /mnt/local
sudo chown "$(id -u):$(id -g)" /mnt/local
