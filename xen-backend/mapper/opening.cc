// SPDX-License-Identifier: GPL-2.0-or-later
// The chain is opened twice: first as any reader would, with every check of the names in
// it; then its files are locked; then it is read again over the locked files, because what
// was read before the lock may have changed since.
#include "xen-backend/mapper/opening.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "formats/core/locks.h"
#include "xen-backend/mapper/crypt_stack.h"

namespace dmu {
namespace {

constexpr std::uint32_t logical_limit = 4096;  // bytes: the largest block size that a guest takes
constexpr std::size_t key_limit = 124;         // "DMU-" and it make a dm uuid
constexpr std::size_t crypt_limit = 108;       // the same with what crypt_names() adds

Result<struct stat> look_at(int descriptor, const std::string& path) {
    struct stat info;
    if (fstat(descriptor, &info) != 0) return system_error("looking at " + path);
    return info;
}

bool is_same_file(const struct stat& a, const struct stat& b) {
    return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

std::string hex(const char* format, unsigned long long a, unsigned long long b = 0) {
    char text[64];
    std::snprintf(text, sizeof text, format, a, b);
    return text;
}

bool has_crypt(const DiskFacts& facts) {
    return std::any_of(facts.files.begin(), facts.files.end(), [](const auto& file) { return file.encrypted; });
}

Result<std::string> make_key(const DiskSetup& setup, const DiskFacts& facts, BlockFile& top) {
    auto info = look_at(top.descriptor(), setup.spec.path);
    if (!info) return info.error();
    // A block device may have several nodes.
    std::string key =
        S_ISBLK(info->st_mode) ? hex("block-%llx", info->st_rdev) : hex("%llx-%llx", info->st_dev, info->st_ino);
    if (!setup.writable) key += "-" + setup.instance + "-" + setup.name;
    if (key.size() <= (has_crypt(facts) ? crypt_limit : key_limit)) return key;
    return Error{Code::invalid, "the names '" + setup.instance + "' and '" + setup.name + "' are too long together"};
}

// The files of the second opening: the top afresh for writing, the others as checked before.
struct LockedFiles {
    const DiskSetup& setup;
    const KernelAccess& kernel;
    Chain& checked;

    static Result<std::unique_ptr<BlockFile>> open(void* context, const Chain::FileRequest& request) {
        return static_cast<LockedFiles*>(context)->open_one(request);
    }

    Result<std::unique_ptr<BlockFile>> open_one(const Chain::FileRequest& request) {
        const bool is_top = request.layer == 0 && request.file == 0;
        for (const ChainFile& file : checked.files()) {
            if (file.layer != request.layer || (!is_top && file.path != request.path)) continue;
            if (!request.mode.writable) return share(file, request.mode);
            if (is_top) return open_top(file, request.mode);
        }
        // The image changed its mind about its backing file, or it is a data file to be
        // written: the policy judges that one.
        return std::unique_ptr<BlockFile>();
    }

    Result<std::unique_ptr<BlockFile>> open_top(const ChainFile& before, OpenMode mode) {
        auto file = open_file(setup.spec.path, mode);
        if (!file) return file;
        auto now = look_at((*file)->descriptor(), setup.spec.path);
        auto then = look_at(before.handle->descriptor(), before.path);
        if (!now || !then || !is_same_file(*now, *then)) {
            return Error{Code::busy, setup.spec.path + " was replaced while it was being opened; try again"};
        }
        if (Status locked = lock_image((*file)->descriptor(), LockMode::exclusive, setup.spec.path); !locked) {
            return locked.error();
        }
        if (kernel.wrap) return kernel.wrap(std::move(*file));
        return file;
    }

    Result<std::unique_ptr<BlockFile>> share(const ChainFile& before, OpenMode mode) {
        if (Status locked = lock_image(before.handle->descriptor(), LockMode::shared, before.path); !locked) {
            return locked.error();
        }
        int copy = fcntl(before.handle->descriptor(), F_DUPFD_CLOEXEC, 0);
        if (copy < 0) return system_error("sharing the descriptor of " + before.path);
        return adopt_file(copy, before.path, mode);
    }
};

// What the kernel can't be told yet.
Status check_servable(Chain& chain) {
    for (unsigned layer = 0; layer < chain.depth(); ++layer) {
        const Image& image = chain.layer(layer);
        const std::string& name = image.files()[0]->name();
        if (image.files().size() > files_per_layer) {
            return Error{Code::unsupported, name + " consists of " + std::to_string(image.files().size()) +
                                                " files; at most " + std::to_string(files_per_layer) +
                                                " can be attached: convert it"};
        }
    }
    return ok();
}

Result<std::unique_ptr<Chain>> open_locked(const DiskSetup& setup, const KernelAccess& kernel) {
    auto checked = Chain::open(setup.spec, false, setup.config.paths);
    if (!checked) return checked.error();
    LockedFiles files{setup, kernel, **checked};
    auto chain = Chain::open(setup.spec, setup.writable, setup.config.paths, LockedFiles::open, &files);
    if (!chain) return chain;
    if (Status servable = check_servable(**chain); !servable) return servable.error();
    for (const ChainFile& file : (*chain)->files()) {
        // Taking a lock again on the same description changes nothing.
        LockMode mode = file.layer == 0 && setup.writable ? LockMode::exclusive : LockMode::shared;
        Status locked = lock_image(file.handle->descriptor(), mode, file.path);
        if (!locked) return locked.error();
    }
    return chain;
}

// Direct I/O of the kernel takes the guest's requests as they are: a file that wants them
// coarser than the device's blocks goes through the page cache, metadata too.
Status choose_buffering(control::DiskState::File& record, const DiskFacts& facts, BlockFile& file) {
    if (file.direct_alignment() > facts.logical) {
        if (Status switched = file.go_buffered(); !switched) return switched;
    }
    record.buffered = file.direct_alignment() == 0;
    return ok();
}

Status make_stacks(OpenDisk& disk, const DiskSetup& setup, const KernelAccess& kernel) {
    const DiskFacts& facts = disk.facts;
    for (const auto& record : facts.files) {
        if (!record.encrypted) continue;
        const CryptPlan plan = plan_crypt(facts, setup.name, record, *disk.chain->layer(record.layer).cipher());
        auto stack = CryptStack::create(plan, *disk.chain, setup, kernel);
        if (!stack) return stack.error();
        disk.crypt.push_back(std::move(*stack));
    }
    return ok();
}

// The crypt device in the file's stead.
Status add_crypt_destinations(OpenDisk& disk) {
    for (auto& stack : disk.crypt) {
        const bool read_only = stack->layer() != 0 || disk.facts.read_only;
        auto added = disk.channel->add_destination(destination_number(stack->layer(), stack->file()),
                                                   stack->descriptor(), read_only ? DMU_DEST_READ_ONLY : 0u,
                                                   destination_cookie(stack->layer(), stack->file()));
        if (!added) return added.error().in("handing a crypt device to the kernel");
        stack->let_go();
    }
    return ok();
}

Status add_destination(Channel& channel, const control::DiskState::File& record, const DiskFacts& facts,
                       BlockFile& file) {
    unsigned flags = record.buffered ? DMU_DEST_BUFFERED : 0u;
    if (record.layer != 0 || facts.read_only) flags |= DMU_DEST_READ_ONLY;
    auto added = channel.add_destination(record.destination, file.descriptor(), flags,
                                         destination_cookie(record.layer, record.file));
    if (!added) return added.error().in("handing " + record.path + " to the kernel");
    if ((added->flags & DMU_DEST_BUFFERED) && !record.buffered) return file.go_buffered();
    return ok();
}

control::DiskState::File record_of(const ChainFile& file) {
    return {file.layer, file.file, file.path, destination_number(file.layer, file.file),
            file.handle->direct_alignment() == 0};
}

Result<std::unique_ptr<Channel>> attach_new(const DiskFacts& facts, const DiskSetup& setup,
                                            const KernelAccess& kernel) {
    auto channel = kernel.attach(facts.key, true);
    if (!channel) {
        if (channel.error().code != Code::busy) return channel;
        return Error{Code::busy, setup.spec.path + " is attached already (key " + facts.key + ")"};
    }
    auto state = (*channel)->state();
    if (!state) return state.error();
    if (state->sectors != 0 || state->destinations != 0) {
        return Error{Code::busy, setup.spec.path + " belongs to a device that waits for its mapper (uuid DMU-" +
                                     facts.key + "); see xen-dmu-list"};
    }
    if (Status set = (*channel)->set_wait(setup.config.wait_seconds); !set) return set.error();
    return channel;
}

// Legacy AES below the top is read by us: the guest's sectors are those of another disk.
bool has_stack(const Chain& chain, unsigned layer) {
    const Cipher* cipher = chain.layer(layer).cipher();
    return cipher != nullptr && (layer == 0 || cipher->by() == CipherBy::host_offset);
}

// The lock is gone with the last descriptor, except where the kernel keeps one a moment longer.
void unlock_all(Chain& chain) {
    for (const ChainFile& file : chain.files()) unlock_image(file.handle->descriptor());
}

}  // namespace

std::string table_words(const std::string& key, const std::vector<std::string>& words) {
    std::string text = key + " " + std::to_string(words.size());
    for (const auto& word : words) text += " " + word;
    return text;
}

std::string DiskFacts::table_parameters() const {
    std::vector<std::string> words = {"grain", std::to_string(grain), "logical", std::to_string(logical)};
    if (discard != 0 && !read_only) {
        words.insert(words.end(), {"discard", std::to_string(discard), "write_zeroes"});
    }
    if (map_memory) words.insert(words.end(), {"map_memory", std::to_string(*map_memory)});
    if (read_only) words.push_back("read_only");
    return table_words(key, words);
}

// The kernel has it before it is written down: a successor asks the kernel for what nobody
// wrote down.
Status OpenDisk::know_file(unsigned file) {
    const auto number = destination_number(0, file);
    for (const auto& one : facts.files)
        if (one.destination == number) return ok();
    if (file >= files_per_layer) return Error{Code::unsupported, "the image has too many files to be attached"};
    BlockFile& handle = chain->file(0, file);
    Status done = lock_image(handle.descriptor(), LockMode::exclusive, handle.name());
    if (!done) return done;
    auto record = record_of({0, file, &handle, handle.name()});
    done = choose_buffering(record, facts, handle);
    if (done) done = add_destination(*channel, record, facts, handle);
    if (done) facts.files.push_back(record);
    return done;
}

OpenDisk::OpenDisk() = default;
OpenDisk::OpenDisk(OpenDisk&&) noexcept = default;
OpenDisk& OpenDisk::operator=(OpenDisk&&) noexcept = default;
OpenDisk::~OpenDisk() = default;

Status OpenDisk::release(const KernelAccess& kernel) {
    channel.reset();  // and with it the kernel's map, which has the crypt devices open
    Status done = ok();
    for (auto& stack : crypt) {
        Status removed = stack->remove(kernel);
        if (!removed && done) done = removed;
    }
    if (chain) unlock_all(*chain);
    drop();
    return done;
}

void OpenDisk::drop() {
    channel.reset();
    crypt.clear();
    chain.reset();
}

const char* encryption_name(Encryption encryption) {
    switch (encryption) {
        case Encryption::none:
            break;
        case Encryption::luks:
            return "luks";
        case Encryption::aes:
            return "aes";
    }
    return "";
}

DiskFacts make_facts(const DiskSetup& setup, Chain& chain, std::uint64_t features) {
    const ImageInfo& info = chain.top().info();
    DiskFacts facts;
    facts.key = setup.key;
    facts.format = info.format;
    facts.virtual_size = info.virtual_size;
    facts.sectors = info.virtual_size / sector_size;
    facts.grain = std::max<std::uint32_t>(info.grain / sector_size, 1);
    facts.discard = info.discards_to_zero ? facts.grain : 0;
    facts.read_only = !setup.writable;
    if (features & DMU_FEATURE_FORGET) facts.map_memory = setup.config.map_mib * 1024;
    if (const Cipher* cipher = chain.top().cipher())
        facts.encryption = cipher->by() == CipherBy::host_offset ? Encryption::luks : Encryption::aes;
    // Then the kernel changes nothing without asking, and what it maps is durable.
    if (facts.encryption == Encryption::aes) facts.discard = 0;
    for (const ChainFile& file : chain.files()) {
        facts.files.push_back(record_of(file));
        facts.files.back().encrypted = has_stack(chain, file.layer);
    }
    // Where nothing is allocated the guest can be given the blocks that the file wants.
    std::uint32_t wanted = chain.file(0, 0).direct_alignment();
    if (!info.can_allocate && chain.depth() == 1 && info.format == "raw" && wanted > facts.logical &&
        wanted <= logical_limit && info.virtual_size % wanted == 0) {
        facts.logical = wanted;
    }
    return facts;
}

Result<OpenDisk> open_fresh(const DiskSetup& setup, const KernelAccess& kernel) {
    auto module = kernel.hello();
    if (!module) return module.error();
    auto chain = open_locked(setup, kernel);
    if (!chain) return chain.error();
    OpenDisk disk;
    disk.chain = std::move(*chain);
    bool recorded = false;
    auto fail = [&](const Error& error) {
        Status released = disk.release(kernel);
        if (released && recorded) released = control::remove_state(disk.facts.key);
        return released ? error : Error{error.code, error.message + "; then: " + released.error().message};
    };
    disk.features = module->features;
    disk.facts = make_facts(setup, *disk.chain, disk.features);
    if (disk.facts.sectors == 0) return fail({Code::invalid, setup.spec.path + " holds not even one sector"});
    auto key = make_key(setup, disk.facts, disk.chain->file(0, 0));
    if (!key) return fail(key.error());
    disk.facts.key = *key;
    for (auto& record : disk.facts.files) {
        Status chosen = choose_buffering(record, disk.facts, disk.chain->file(record.layer, record.file));
        if (!chosen) return fail(chosen.error());
    }
    auto channel = attach_new(disk.facts, setup, kernel);
    if (!channel) return fail(channel.error());
    disk.channel = std::move(*channel);
    if (has_crypt(disk.facts) && setup.record) {
        if (Status written = setup.record(disk.facts); !written) return fail(written.error());
        recorded = true;
    }
    if (Status made = make_stacks(disk, setup, kernel); !made) return fail(made.error());
    for (const auto& record : disk.facts.files) {
        if (record.encrypted) continue;
        Status added = add_destination(*disk.channel, record, disk.facts, disk.chain->file(record.layer, record.file));
        if (!added) return fail(added.error());
    }
    if (Status added = add_crypt_destinations(disk); !added) return fail(added.error());
    return disk;
}

}  // namespace dmu
