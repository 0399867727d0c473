// SPDX-License-Identifier: GPL-2.0-or-later
// Every active mapping, and what is stale: asked of the mappers, the state files,
// device-mapper and xenstore, and joined.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tools/lib/ports.h"

namespace dmu {

struct ListedDisk {
    std::string instance;
    pid_t mapper_pid = 0;
    std::optional<unsigned> domain;  // nothing: attached without Xen
    std::string domain_name;         // empty: unknown
    std::string vdev;                // "xvda"; empty without Xen
    control::Json facts;             // as the mapper's "list" says
};

enum class StaleKind {
    state,       // a state file whose mapper does not run: its device waits for a successor
    lost_state,  // a state file whose mapper and device are both gone
    device,      // a dm device of ours that no state names
    mapper,      // a mapper that runs and does not answer
    user,        // a disk whose backend is gone from xenstore
    file,        // a state file that cannot be read
};

struct StaleItem {
    StaleKind kind;
    std::string name;      // of the dm device, instance or file
    std::string instance;  // empty: none
    std::string key;       // of the state; empty: none
    std::string user;      // kind user: the backend's path
    std::string words;     // what is wrong
    std::string remedy;    // what to do
};

struct Listing {
    std::vector<ListedDisk> disks;
    std::vector<StaleItem> stale;
    std::vector<std::string> notes;  // what could not be asked
};

// Blocks at most seconds per mapper that does not answer.
Listing collect_listing(const Ports& ports, unsigned seconds = 3);

const char* stale_kind_name(StaleKind kind);

// One line per disk, xl's way; header always.
std::string listing_table(const Listing& listing);
// Everything, a block per disk.
std::string listing_long(const Listing& listing);
control::Json listing_json(const Listing& listing);
// One line per item, for stderr; empty: nothing stale.
std::string stale_text(const Listing& listing);

}  // namespace dmu
