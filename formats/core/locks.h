// SPDX-License-Identifier: GPL-2.0-or-later
// Locks on image files that other programs respect: the byte ranges are those of
// qemu's file driver (block/file-posix.c), so that qemu and qemu-img refuse an image that
// is attached here and the other way round.
//
// They are locks of the open file description (F_OFD_SETLK): the kernel target holds the
// same description as a destination, so they outlive a killed mapper.
#pragma once

#include <string>

#include "formats/core/result.h"

namespace dmu {

enum class LockMode {
    shared,     // others may read: backing files, read-only disks
    exclusive,  // a disk that is written
};

// Does not wait. Code::busy: "in use (locked) by another program or domain".
Status lock_image(int descriptor, LockMode mode, const std::string& path);
// Also when the kernel still holds the description.
void unlock_image(int descriptor);

}  // namespace dmu
