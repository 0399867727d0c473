// SPDX-License-Identifier: GPL-2.0-or-later
#include "xen-backend/mapper/crypt_stack.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include "xen-backend/mapper/device_steps.h"
#include "xen-backend/mapper/log.h"

namespace dmu {
namespace {

constexpr std::size_t events_at_once = 64;
constexpr unsigned file_number = 0;  // the base's only destination

Result<int> open_node(const std::string& path, bool writable) {
    const int descriptor = open(path.c_str(), (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC);
    if (descriptor < 0) return system_error("opening the device " + path);
    return descriptor;
}

}  // namespace

CryptPlan plan_crypt(const DiskFacts& facts, const std::string& name, const control::DiskState::File& record,
                     const Cipher& cipher) {
    CryptPlan plan;
    plan.names = control::crypt_names(name, facts.key, record.layer, record.file);
    plan.layer = record.layer;
    plan.file = record.file;
    plan.by = cipher.by();
    plan.buffered = record.buffered;
    plan.base.sectors = plan.by == CipherBy::host_offset ? base_sectors : facts.sectors;
    plan.base.target = "userspace";
    plan.base.read_only = record.layer != 0 || facts.read_only;
    std::vector<std::string> words = {"logical", "512"};
    // Of a whole file there is nothing to forget.
    if (plan.by == CipherBy::guest_offset && facts.map_memory)
        words.insert(words.end(), {"map_memory", std::to_string(*facts.map_memory)});
    if (plan.base.read_only) words.push_back("read_only");
    plan.base.parameters = table_words(plan.names.base_key, words);
    plan.description = "dmu:" + plan.names.crypt.name;
    return plan;
}

DmTable crypt_table(const CryptPlan& plan, const Cipher& cipher, const DmInfo& device) {
    DmTable table = plan.base;
    table.target = "crypt";
    table.parameters = cipher.kernel_name() + " :" + std::to_string(cipher.key().size()) +
                       ":logon:" + plan.description + " 0 " + std::to_string(device.major) + ":" +
                       std::to_string(device.minor) + " 0";
    return table;
}

CryptStack::CryptStack(CryptPlan plan, std::unique_ptr<Channel> channel)
    : plan_(std::move(plan)), channel_(std::move(channel)), events_(events_at_once) {
}

CryptStack::~CryptStack() {
    let_go();
}

void CryptStack::let_go() {
    if (descriptor_ >= 0) close(descriptor_);
    descriptor_ = -1;
}

Result<std::unique_ptr<CryptStack>> CryptStack::create(const CryptPlan& plan, Chain& chain, const DiskSetup& setup,
                                                       const KernelAccess& kernel) {
    auto channel = kernel.attach(plan.names.base_key, true);
    if (!channel) return channel.error();
    auto state = (*channel)->state();
    if (!state) return state.error();
    if (state->sectors != 0 || state->destinations != 0)
        return Error{Code::busy, "the device " + plan.names.base.name +
                                     " is left from before; it goes by 'xen-dmu gc' when nothing uses it"};
    if (Status set = (*channel)->set_wait(setup.config.wait_seconds); !set) return set.error();
    std::unique_ptr<CryptStack> stack(new CryptStack(plan, std::move(*channel)));
    stack->chain_ = &chain;
    if (Status prepared = stack->prepare(); !prepared) return prepared.error();
    if (Status made = stack->make_devices(kernel); !made) {
        if (Status removed = stack->remove(kernel); !removed) log_error(removed.error().message);
        return made.error();
    }
    const std::string node = "/dev/mapper/" + plan.names.crypt.name;
    auto opened =
        kernel.open_device ? kernel.open_device(node, !plan.base.read_only) : open_node(node, !plan.base.read_only);
    if (opened) {
        stack->descriptor_ = *opened;
        return stack;
    }
    if (Status removed = stack->remove(kernel); !removed) log_error(removed.error().message);
    return opened.error();
}

Result<std::unique_ptr<CryptStack>> CryptStack::adopt(const DiskSetup& setup, const control::DiskState::File& record,
                                                      const KernelAccess& kernel) {
    CryptPlan plan;
    plan.names = control::crypt_names(setup.name, setup.key, record.layer, record.file);
    plan.layer = record.layer;
    plan.file = record.file;
    auto channel = kernel.attach(plan.names.base_key, false);
    if (!channel) return channel.error();
    if (Status set = (*channel)->set_wait(setup.config.wait_seconds); !set) return set.error();
    return std::unique_ptr<CryptStack>(new CryptStack(std::move(plan), std::move(*channel)));
}

Status CryptStack::resume(const DiskFacts& facts, const DiskSetup& setup, Chain& chain) {
    const Cipher* cipher = plan_.layer < chain.depth() ? chain.layer(plan_.layer).cipher() : nullptr;
    const auto record = std::find_if(facts.files.begin(), facts.files.end(), [&](const auto& file) {
        return file.layer == plan_.layer && file.file == plan_.file;
    });
    if (cipher == nullptr || record == facts.files.end())
        return Error{Code::corrupt, setup.spec.path + " is not encrypted any more as it was when it was attached"};
    plan_ = plan_crypt(facts, setup.name, *record, *cipher);
    chain_ = &chain;
    // What the predecessor was about to map may be in the image, and not here.
    if (plan_.by == CipherBy::guest_offset) forget({{0}, plan_.base.sectors * sector_size});
    send();
    return ok();
}

Result<int> CryptStack::file_descriptor() const {
    return channel_->destination_descriptor(file_number);
}

// What the base knows before it is a device: who looks at a new one must not wait for us.
Status CryptStack::prepare() {
    BlockFile& file = chain_->file(plan_.layer, plan_.file);
    unsigned flags = plan_.buffered ? DMU_DEST_BUFFERED : 0u;
    if (plan_.base.read_only) flags |= DMU_DEST_READ_ONLY;
    auto added =
        channel_->add_destination(file_number, file.descriptor(), flags, destination_cookie(plan_.layer, plan_.file));
    if (!added) return added.error().in("handing " + file.name() + " to the kernel");
    if ((added->flags & DMU_DEST_BUFFERED) && !plan_.buffered) {
        if (Status switched = file.go_buffered(); !switched) return switched;
    }
    if (plan_.by == CipherBy::host_offset) map_file(0, 0);
    send();
    return ok();
}

// The key is the kernel's for the moment in which dm-crypt takes its copy.
Status CryptStack::make_devices(const KernelAccess& kernel) {
    const Cipher& cipher = *chain_->layer(plan_.layer).cipher();
    Status done = ok();
    kernel.with_devices([&](DeviceMapper& devices) {
        const auto base = devices.create(plan_.names.base.name, plan_.names.base.uuid, plan_.base);
        if (!base) {
            done = base.error();
            return;
        }
        const auto crypt =
            devices.create_with_secret(plan_.names.crypt.name, plan_.names.crypt.uuid,
                                       crypt_table(plan_, cipher, *base), {plan_.description, cipher.key()});
        if (!crypt) done = crypt.error().in("encryption by the kernel's dm-crypt (" + cipher.kernel_name() + ")");
    });
    return done;
}

Status CryptStack::remove(const KernelAccess& kernel) {
    let_go();
    Status done = ok();
    kernel.with_devices([&](DeviceMapper& devices) {
        for (const auto& device : {plan_.names.crypt, plan_.names.base}) {
            if (done) done = remove_own_device(devices, device.name, device.uuid, true);
        }
    });
    return done;
}

bool CryptStack::serve() {
    if (broken_) return false;
    auto count = channel_->read(events_);
    if (!count) {
        log_error(plan_.names.base.name + ": " + count.error().message);
        broken_ = true;
        return false;
    }
    for (std::size_t i = 0; i < *count; ++i) {
        const dmu_event& event = events_[i];
        if (event.type == DMU_EV_MISS) answer(event);
        if (event.type == DMU_EV_FLUSH) out_.committed(event.sequence);  // there is nothing to commit here
    }
    ahead_start_ = ahead_end_ = 0;
    send();
    return *count == events_.size();
}

void CryptStack::send() {
    out_.send(*channel_, plan_.names.base.name);
}

void CryptStack::answer(const dmu_event& miss) {
    if (plan_.by == CipherBy::host_offset)
        map_file(miss.id, miss.start);
    else
        map_disk(miss);
}

dmu_command CryptStack::map(std::uint64_t start, std::uint64_t length, std::uint64_t physical) const {
    dmu_command command{};
    command.type = DMU_CMD_MAP;
    command.kind = DMU_KIND_LINEAR;
    command.start = start;
    command.length = length;
    command.destination = file_number;
    command.physical = physical;
    if (!plan_.base.read_only) command.flags = DMU_MAP_WRITABLE;
    return command;
}

// From start to the file's end, which may have moved since the last time.
void CryptStack::map_file(std::uint64_t id, std::uint64_t start) {
    const auto bytes = chain_->file(plan_.layer, plan_.file).size();
    const std::uint64_t end = bytes ? std::min(align_up(*bytes, sector_size) / sector_size, plan_.base.sectors) : 0;
    if (start < end) {
        dmu_command command = map(start, end - start, start);
        command.id = id;
        out_.add(command);
    } else if (id != 0) {
        out_.fail(id, EIO);
    }
}

// What the disk's map sends here has its place. Anything else is asked by who looks at the
// device itself, and there is nothing to see.
void CryptStack::map_disk(const dmu_event& miss) {
    const GuestRange range{{miss.start * sector_size}, miss.length * sector_size};
    const auto extents = chain_->top().look_up(range);
    if (!extents) return out_.fail(miss.id, extents.error().to_errno());
    const Extent& first = extents->front();
    if (first.kind != ExtentKind::data || first.file != plan_.file) return out_.fail(miss.id, EIO);
    map_ahead(*extents);
    const std::uint64_t length = std::min<std::uint64_t>(first.length / sector_size, plan_.base.sectors - miss.start);
    dmu_command command = map(miss.start, length, first.host.bytes / sector_size);
    command.id = miss.id;
    out_.add(command);
}

// What lies behind spares the next misses: the kernel may have forgotten it too.
void CryptStack::map_ahead(const std::vector<Extent>& extents) {
    const std::uint64_t at = extents.front().start.bytes;
    if (ahead_start_ <= at && at < ahead_end_) return;
    ahead_start_ = at;
    ahead_end_ = at + extents.front().length;
    for (std::size_t i = 1; i < std::min(extents.size(), ahead_limit + 1); ++i) {
        const Extent& extent = extents[i];
        const std::uint64_t start = extent.start.bytes / sector_size;
        if (start >= plan_.base.sectors) break;
        ahead_end_ = extent.start.bytes + extent.length;
        if (extent.kind != ExtentKind::data || extent.file != plan_.file) continue;
        const std::uint64_t length = std::min<std::uint64_t>(extent.length / sector_size, plan_.base.sectors - start);
        out_.add(map(start, length, extent.host.bytes / sector_size));
    }
}

void CryptStack::remap(GuestRange range, HostOffset host) {
    forget(range);
    const std::uint64_t start = range.start.bytes / sector_size;
    out_.add(map(start, std::min(range.length / sector_size, plan_.base.sectors - start), host.bytes / sector_size));
}

void CryptStack::forget(GuestRange range) {
    dmu_command command{};
    command.type = DMU_CMD_INVALIDATE;
    command.start = range.start.bytes / sector_size;
    command.length = std::min<std::uint64_t>(range.length / sector_size, plan_.base.sectors - command.start);
    command.destination = DMU_NO_DESTINATION;
    out_.add(command);
}

}  // namespace dmu
