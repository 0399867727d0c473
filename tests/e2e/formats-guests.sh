#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# A guest in a real Xen with a disk of each kind that differs on the way to the
# kernel: mkfs, files, random writes, a reboot; then qemu-img reads them.
#
# vm-long: --kernel xen --timeout 3000
exec "$(dirname "$0")/formats.sh" qcow2 qcow2-compressed qcow2-luks qcow2-aes qcow2-subclusters qcow2-data-file \
	qcow2-over-vmdk vmdk vmdk-split vmdk-cowd
