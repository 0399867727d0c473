// SPDX-License-Identifier: GPL-2.0-or-later
// A successor takes the files from the kernel, by the very descriptions that its
// predecessor opened and locked: a renamed or deleted image is still the right one, and
// nobody could lock it in between.
#include <unistd.h>

#include "xen-backend/mapper/crypt_stack.h"
#include "xen-backend/mapper/opening.h"

namespace dmu {
namespace {

struct AdoptedFiles {
    const DiskSetup& setup;
    Channel& channel;
    const std::vector<std::unique_ptr<CryptStack>>& crypt;

    static Result<std::unique_ptr<BlockFile>> open(void* context, const Chain::FileRequest& request) {
        return static_cast<AdoptedFiles*>(context)->open_one(request);
    }

    Result<std::unique_ptr<BlockFile>> open_one(const Chain::FileRequest& request) {
        const control::DiskState::File* found = find(request);
        if (!found && request.layer == 0 && request.file != 0) return open_unwritten(request);
        if (!found) {
            return Error{Code::not_found,
                         "the predecessor had no file " + request.path + " in layer " + std::to_string(request.layer)};
        }
        auto descriptor = descriptor_of(*found);
        if (!descriptor) return descriptor.error().in("taking over " + request.path);
        OpenMode mode = request.mode;
        mode.direct = mode.direct && !found->buffered;
        return adopt_file(*descriptor, request.path, mode);
    }

    Result<int> descriptor_of(const control::DiskState::File& file) const {
        for (const auto& stack : crypt) {
            if (stack->layer() == file.layer && stack->file() == file.file) return stack->file_descriptor();
        }
        return channel.destination_descriptor(file.destination);
    }

    // Made by the predecessor, which died before it wrote that down: the kernel may have it
    // already; else it is opened as any file that is named in an image.
    Result<std::unique_ptr<BlockFile>> open_unwritten(const Chain::FileRequest& request) {
        const auto number = destination_number(request.layer, request.file);
        auto known = channel.get_destination(number);
        if (!known) return std::unique_ptr<BlockFile>();
        auto descriptor = channel.destination_descriptor(number);
        if (!descriptor) return descriptor.error().in("taking over " + request.path);
        OpenMode mode = request.mode;
        mode.direct = mode.direct && !(known->flags & DMU_DEST_BUFFERED);
        return adopt_file(*descriptor, request.path, mode);
    }

    // An image by its layer, whatever its name is now; a file that a name inside it
    // reaches by that name, or where it was renamed with the image by its place.
    const control::DiskState::File* find(const Chain::FileRequest& request) const {
        const control::DiskState::File* by_place = nullptr;
        for (const auto& file : setup.files) {
            if (file.layer != request.layer) continue;
            if (request.file != 0 && file.file != 0 && file.path == request.path) return &file;
            if (file.file == request.file) by_place = &file;
        }
        return by_place;
    }
};

// The channels first: they have the files, without which nobody knows how they are encrypted.
Result<std::vector<std::unique_ptr<CryptStack>>> take_over_stacks(const DiskSetup& setup, const KernelAccess& kernel) {
    std::vector<std::unique_ptr<CryptStack>> stacks;
    for (const auto& file : setup.files) {
        if (!file.encrypted) continue;
        auto stack = CryptStack::adopt(setup, file, kernel);
        if (!stack) return stack.error();
        stacks.push_back(std::move(*stack));
    }
    return stacks;
}

Result<OpenDisk> take_over_image(const DiskSetup& setup, const KernelAccess& kernel, std::unique_ptr<Channel> channel,
                                 std::uint64_t features) {
    OpenDisk disk;
    disk.features = features;
    auto stacks = take_over_stacks(setup, kernel);
    if (!stacks) return stacks.error();
    disk.crypt = std::move(*stacks);
    AdoptedFiles files{setup, *channel, disk.crypt};
    auto chain = Chain::open(setup.spec, setup.writable, setup.config.paths, AdoptedFiles::open, &files);
    if (!chain) return chain.error();
    (*chain)->top().take_over();
    disk.facts = make_facts(setup, **chain, features);
    disk.facts.key = setup.key;
    // The files are what they were, whatever their names are now.
    if (disk.facts.files.size() == setup.files.size()) disk.facts.files = setup.files;
    auto state = channel->state();
    if (!state) return state.error();
    if (state->sectors != 0) disk.facts.sectors = state->sectors;
    disk.chain = std::move(*chain);
    for (auto& stack : disk.crypt) {
        if (Status resumed = stack->resume(disk.facts, setup, *disk.chain); !resumed) return resumed.error();
    }
    disk.channel = std::move(channel);
    for (const ChainFile& file : disk.chain->files()) {
        const auto number = destination_number(file.layer, file.file);
        if (file.layer != 0 || file.file == 0 || !setup.writable || disk.channel->get_destination(number)) continue;
        std::erase_if(disk.facts.files, [&](const auto& one) { return one.destination == number; });
        if (Status known = disk.know_file(file.file); !known) return known.error();
    }
    if (Status set = disk.channel->set_wait(setup.config.wait_seconds); !set) return set.error();
    return disk;
}

}  // namespace

Result<OpenDisk> open_successor(const DiskSetup& setup, const KernelAccess& kernel) {
    auto module = kernel.hello();
    if (!module) return module.error();
    auto channel = kernel.attach(setup.key, false);
    if (!channel) return channel.error();
    auto disk = take_over_image(setup, kernel, std::move(*channel), module->features);
    if (disk) return disk;
    // "Not found" is kept for the key.
    Error error = disk.error().in("taking over " + setup.name);
    if (error.code == Code::not_found) error.code = Code::io;
    return error;
}

}  // namespace dmu
