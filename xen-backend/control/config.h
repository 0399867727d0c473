// SPDX-License-Identifier: GPL-2.0-or-later
// /etc/xen/xen-dmu.conf: "name = value" lines, comments behind '#'.
#pragma once

#include <cstdint>
#include <string>

#include "formats/core/chain.h"
#include "formats/core/result.h"

namespace dmu {

// What first writes do when the image can't grow.
enum class OnFull { wait, error };

// Whether first writes take space reserved in advance; automatic: where the image's format
// gets all of it back that is not used.
enum class LeaseAhead { automatic, yes, no };

const char* on_full_name(OnFull policy);
Result<OnFull> parse_on_full(const std::string& text);
Result<LeaseAhead> parse_lease_ahead(const std::string& text);

struct Config {
    PathPolicy paths;
    OnFull on_full = OnFull::wait;
    std::uint32_t wait_seconds = 0xffffffffu;  // for a successor; all ones: for ever
    unsigned commit_seconds = 1;               // 1..3600
    LeaseAhead lease_ahead = LeaseAhead::automatic;
    std::uint32_t scratch_mib = 64;  // 1..65536: for decompressed clusters, per disk
    std::uint32_t map_mib = 64;      // 0..65536: the kernel's, for what it was told, per disk; 0: any
};

// The environment's XEN_DMU_CONFIG, else the installed place.
std::string config_path();
// A missing file is the default configuration; the error names file and line.
Result<Config> read_config(const std::string& path);

}  // namespace dmu
