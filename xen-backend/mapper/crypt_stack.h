// SPDX-License-Identifier: GPL-2.0-or-later
// The devices by which the kernel reads and writes a file of an encrypted image:
//
//     the disk's device -> "crypt" -> "base" -> file
//
// crypt is dm-crypt's; the disk's map has it as the destination in the file's stead. dm-crypt
// makes the initialisation vector from the sector that it is asked for, so
//
//     LUKS  (by host offset)   the base is the file, sector by sector; crypt is asked for host sectors
//     AES   (by guest offset)  the base maps the disk to the file, as the image says, and crypt is
//                              asked for guest sectors; the disk's map sends around it what has no place
//
// The base is a target of ours, with a channel of its own, which the disk's thread serves. It
// is larger than any file can be, so that nothing need be reloaded when the file grows.
#pragma once

#include <dm-userspace.h>

#include <memory>
#include <string>
#include <vector>

#include "formats/core/chain.h"
#include "xen-backend/control/crypt_devices.h"
#include "xen-backend/mapper/opening.h"
#include "xen-backend/mapper/outbox.h"

namespace dmu {

// Sectors of a base on a file: no image has offsets beyond 2^56 bytes.
inline constexpr std::uint64_t base_sectors = std::uint64_t{1} << 47;

struct CryptPlan {
    control::CryptNames names;
    unsigned layer = 0;
    unsigned file = 0;
    CipherBy by = CipherBy::host_offset;
    bool buffered = false;
    DmTable base;
    std::string description;  // of the key
};

// record: a file whose layer has a cipher. name: of the disk's device.
CryptPlan plan_crypt(const DiskFacts& facts, const std::string& name, const control::DiskState::File& record,
                     const Cipher& cipher);
// Never holds the key. device: the base.
DmTable crypt_table(const CryptPlan& plan, const Cipher& cipher, const DmInfo& device);

class CryptStack {
public:
    // Makes it all. chain outlives it. Blocks. On an error nothing is left.
    static Result<std::unique_ptr<CryptStack>> create(const CryptPlan& plan, Chain& chain, const DiskSetup& setup,
                                                      const KernelAccess& kernel);
    // A predecessor's: the channel, which has the file; resume() before anything is served.
    static Result<std::unique_ptr<CryptStack>> adopt(const DiskSetup& setup, const control::DiskState::File& record,
                                                     const KernelAccess& kernel);
    Status resume(const DiskFacts& facts, const DiskSetup& setup, Chain& chain);
    // Leaves the devices to a successor.
    ~CryptStack();
    CryptStack(const CryptStack&) = delete;
    CryptStack& operator=(const CryptStack&) = delete;

    unsigned layer() const { return plan_.layer; }
    unsigned file() const { return plan_.file; }
    // Of the crypt device, until let_go(); -1 in a successor, where the kernel has it.
    int descriptor() const { return descriptor_; }
    void let_go();
    // A new descriptor of the file, as the predecessor opened it.
    Result<int> file_descriptor() const;

    // The disk's own device is gone, and its map: removes crypt, then base.
    Status remove(const KernelAccess& kernel);

    // The channel can't be read any more.
    bool is_broken() const { return broken_; }
    int poll_descriptor() const { return channel_->poll_descriptor(); }
    // Answers what is asked; true: there may be more.
    bool serve();
    // AES: this range lies there from now on.
    void remap(GuestRange range, HostOffset host);
    // AES: of this range the image is to be asked again.
    void forget(GuestRange range);
    void send();

private:
    CryptStack(CryptPlan plan, std::unique_ptr<Channel> channel);
    Status prepare();
    Status make_devices(const KernelAccess& kernel);
    void answer(const dmu_event& miss);
    void map_file(std::uint64_t id, std::uint64_t start);
    void map_disk(const dmu_event& miss);
    void map_ahead(const std::vector<Extent>& extents);
    dmu_command map(std::uint64_t start, std::uint64_t length, std::uint64_t physical) const;

    CryptPlan plan_;
    std::unique_ptr<Channel> channel_;
    Chain* chain_ = nullptr;
    int descriptor_ = -1;
    bool broken_ = false;
    Outbox out_;
    // What was sent beyond the misses of this batch: it need not be sent again.
    std::uint64_t ahead_start_ = 0, ahead_end_ = 0;
    std::vector<dmu_event> events_;
};

}  // namespace dmu
