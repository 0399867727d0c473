// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/img/opening.h"

#include <algorithm>

#include "formats/core/backing_path.h"
#include "formats/core/locks.h"
#include "xen-backend/control/config.h"

namespace dmu::img {

namespace {

struct LockingOpener {
    const PathPolicy& policy;
    Locking locking;
    std::string layer_path, overlay_path;  // of the layer being opened, and the one above
    unsigned layer = 0;

    static Result<std::unique_ptr<BlockFile>> open(void* context, const Chain::FileRequest& request) {
        return static_cast<LockingOpener*>(context)->open_one(request);
    }

    Result<std::unique_ptr<BlockFile>> open_one(const Chain::FileRequest& request) {
        if (request.create) return std::unique_ptr<BlockFile>();
        if (request.file == 0) overlay_path = std::exchange(layer_path, request.path);
        auto file = request.file != 0
                        ? open_backing_path(request.path, layer_path, policy, request.mode, NameUse::data_file)
                    : request.layer == 0 ? open_image_path(request.path, request.mode, policy)
                                         : open_backing_path(request.path, overlay_path, policy);
        if (!file || (request.layer != 0 && locking == Locking::top)) return file;
        const auto mode = request.mode.writable ? LockMode::exclusive : LockMode::shared;
        auto locked = lock_image((*file)->descriptor(), mode, request.path);
        if (!locked) return locked.error();
        return file;
    }
};

}  // namespace

Result<PathPolicy> tool_policy() {
    auto config = read_config(config_path());
    if (!config) return config.error();
    // Who calls the program may name any image.
    config->paths.image_roots.clear();
    return config->paths;
}

Result<std::unique_ptr<Chain>> open_chain(const ImageSpec& spec, bool writable, Locking locking) {
    const auto policy = tool_policy();
    if (!policy) return policy.error();
    if (writable) {
        auto free = refuse_attached(spec.path);
        if (!free) return free.error();
    }
    LockingOpener opener{*policy, locking, {}, {}};
    return Chain::open(spec, writable, *policy, LockingOpener::open, &opener);
}

Result<std::unique_ptr<Chain>> open_chain(const std::string& text, bool writable, Locking locking) {
    const auto named = named_image(text);
    if (!named) return named.error();
    return open_chain(named->spec, writable, locking);
}

Result<Alone> open_alone(const NamedImage& named, bool writable, Depth depth) {
    const auto policy = tool_policy();
    if (!policy) return policy.error();
    if (writable) {
        auto free = refuse_attached(named.spec.path);
        if (!free) return free.error();
    }
    OpenOptions options;
    options.writable = writable;
    options.info_only = depth == Depth::info_only;
    options.options = named.spec.options;
    std::erase_if(options.options, [](const auto& option) {
        return option.first == "backing-format" || option.first == "backing-key-file";
    });
    LockingOpener opener{*policy, Locking::all, {}, {}};
    auto neighbours = std::make_unique<ImageNeighbours>(named.spec.path, *policy, writable);
    neighbours->set_opener(LockingOpener::open, &opener);
    options.neighbours = options.info_only ? nullptr : neighbours.get();
    const OpenMode mode{writable, !options.info_only};
    auto file =
        options.info_only ? open_file(named.spec.path, mode) : opener.open_one({0, 0, named.spec.path, mode, false});
    if (!file) return file.error();
    auto image = named.format->open(std::move(*file), options);
    if (!image) return image.error();
    neighbours->set_opener(nullptr, nullptr);
    return Alone{std::move(neighbours), std::move(*image)};
}

Status close_image(Image& image) {
    Status done;
    while (done && image.has_work()) done = image.work();
    return done ? image.close() : done;
}

}  // namespace dmu::img
