// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "formats/core/image.h"
#include "formats/qcow2/header.h"

namespace dmu::qcow2 {

enum class Preallocation { off, metadata, falloc, full };

struct CreatePlan {
    Header header;  // all but where the tables lie
    Preallocation preallocation = Preallocation::off;
    std::string data_file;
    std::string key_file;
    std::uint32_t iteration_milliseconds = 0;  // of LUKS; 0: the default
};

// Every option checked, also against the others. file: for messages.
Result<CreatePlan> plan_create(const BlockFile& file, const CreateOptions& options);

}  // namespace dmu::qcow2
