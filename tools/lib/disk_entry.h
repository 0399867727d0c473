// SPDX-License-Identifier: GPL-2.0-or-later
// The one translator from the old spelling of a disk to the one that stock xl takes.
//
//   dmu:qcow:/vm/a.qcow,xvda,w                                     old (xm)
//   dmu:qcow:/vm/a.qcow,,xvda,w,script=block-dmu                   xl takes it
//   vdev=xvda,access=w,script=block-dmu,target=qcow:/vm/a.qcow     canonical
//
// A path may hold anything but a newline; what follows it is found from the right.
// A path that itself ends in ",", or in ",raw", can only be written canonically.
#pragma once

#include <string>
#include <vector>

#include "formats/core/result.h"

namespace dmu {

struct DiskTranslation {
    std::string text;      // what xl is to be given
    bool changed = false;  // false: text is the entry as it was
};

// Entries that are not ours, and ours that xl takes, come back unchanged.
// Code::invalid: ours ("dmu:"), but not understood; the message says what was expected.
Result<DiskTranslation> translate_disk(const std::string& entry);

// The separate words of "xm block-attach DOM dmu:qcow:/p xvda w [BACKEND-DOMAIN]".
Result<std::string> translate_disk_words(const std::string& target, const std::string& vdev, const std::string& mode,
                                         const std::string& backend);

// Does this begin as ours do in the old spelling: "dmu:" or "phy:dmu:"?
bool is_dmu_target(const std::string& text);

struct DiskListTranslation {
    std::vector<std::string> entries;
    bool changed = false;
};
Result<DiskListTranslation> translate_disks(const std::vector<std::string>& entries);

}  // namespace dmu
