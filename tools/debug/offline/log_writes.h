// SPDX-License-Identifier: GPL-2.0-or-later
// dm-log-writes' own on-disk format: a super block, then per entry one sector that
// describes it and its data; in units of the logged device's logical block.
#pragma once

#include "tools/debug/log.h"

namespace dmu::debug {

// As dm-log-writes would have logged it: a write stands before the flush that made it
// durable, a FUA write where it ended. What never reached the device is left out. The file
// is overwritten; it may be a block device.
Status export_log_writes(const LogReader& log, const std::string& path);

// Makes the log. The times in it are only an order. sectors: of the logged device, which the
// file does not tell; 0: as far as its entries go.
Status import_log_writes(const std::string& path, const std::string& directory, std::uint64_t sectors);

}  // namespace dmu::debug
