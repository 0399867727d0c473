// SPDX-License-Identifier: GPL-2.0-or-later
// First writes to an image that is encrypted by guest sector. The kernel can't fill a grain
// that has no place yet, because to dm-crypt the guest's sector is the place. So the mapper
// writes the whole grain as it reads now (zeros, or what the backing file holds), encrypted;
// commits; and only then tells the kernel, which does the guest's write as an overwrite. The
// disk's thread only.
#pragma once

#include <dm-userspace.h>

#include <memory>
#include <vector>

#include "formats/core/chain.h"
#include "xen-backend/mapper/crypt_stack.h"
#include "xen-backend/mapper/opening.h"
#include "xen-backend/mapper/outbox.h"

namespace dmu {

class GrainWriter {
public:
    GrainWriter(Chain& chain, const DiskFacts& facts, const std::vector<std::unique_ptr<CryptStack>>& stacks,
                Outbox& out)
        : chain_(chain), facts_(facts), stacks_(stacks), out_(out) {}

    // Fills the place and records it in the image's memory; the miss ends in finish().
    Status write(const dmu_event& miss, const Place& place);
    bool has_written() const { return !written_.empty(); }
    // The image was committed, or not. sequence: the last change applied to it.
    void finish(const Status& committed, std::uint64_t sequence);
    // What the image says of the range is newer than what the kernel was told.
    void forget(GuestRange range);

private:
    struct Written {
        std::uint64_t id;
        Place place;
    };

    void map(const Written& one, std::uint64_t sequence);

    Chain& chain_;
    const DiskFacts& facts_;
    const std::vector<std::unique_ptr<CryptStack>>& stacks_;
    Outbox& out_;
    std::vector<Written> written_;
    std::vector<std::byte> buffer_;
};

}  // namespace dmu
