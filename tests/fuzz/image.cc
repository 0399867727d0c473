// SPDX-License-Identifier: GPL-2.0-or-later
// Any bytes as an image: checked, opened, read, written, repaired. Nothing may crash, hang,
// take much memory, or map guest data where there is none. Every file that a name in the
// image reaches (extents, external data) is what begins at byte 4096 of the input.
#include <algorithm>
#include <cstdlib>

#include "formats/core/stand_in.h"
#include "tests/fakes/memory_file.h"

namespace {

using namespace dmu;

constexpr std::uint64_t most_read = 1 << 20;
constexpr std::size_t other_at = 4096;

struct Files {
    std::shared_ptr<MemoryStore> image, other;
};

Result<std::unique_ptr<BlockFile>> open_memory(void* context, const Chain::FileRequest& request) {
    if (request.layer != 0 || request.create) return Error{Code::not_found, request.path};
    const auto& files = *static_cast<Files*>(context);
    return std::unique_ptr<BlockFile>(std::make_unique<MemoryFile>(request.file == 0 ? files.image : files.other,
                                                                   request.path, request.mode.writable));
}

class Others final : public Neighbours {
public:
    explicit Others(Files& files) : files_(files) {}
    Result<std::unique_ptr<BlockFile>> open(const std::string& name, OpenMode mode) override {
        return std::unique_ptr<BlockFile>(std::make_unique<MemoryFile>(files_.other, name, mode.writable));
    }
    Result<std::unique_ptr<BlockFile>> create(const std::string& name) override { return Error{Code::denied, name}; }

private:
    Files& files_;
};

void check_mappings(Chain& chain, GuestRange range) {
    const auto mappings = chain.look_up(range);
    if (!mappings) return;
    auto at = range.start.bytes;
    for (const auto& mapping : *mappings) {
        if (mapping.start.bytes != at || mapping.length == 0) std::abort();
        at += mapping.length;
        if (mapping.kind != MappingKind::linear && mapping.kind != MappingKind::cow) continue;
        const auto size = chain.file(mapping.layer, mapping.file).size();
        if (!size || mapping.host.bytes > *size || mapping.length > *size - mapping.host.bytes) std::abort();
    }
    if (at < range.end() || at > chain.top().info().virtual_size) std::abort();
}

void use(Files files, bool writable) {
    const auto chain = Chain::open({DMU_FUZZ_FORMAT, {}, "/image"}, writable, PathPolicy{}, open_memory, &files);
    if (!chain) return;
    const auto size = (*chain)->top().info().virtual_size;
    const auto bytes = std::min(size, most_read);
    std::vector<std::byte> buffer(bytes);
    for (const auto at : {std::uint64_t{0}, (size - bytes) / 2 / sector_size * sector_size, size - bytes}) {
        check_mappings(**chain, {{at}, bytes});
        (void)static_cast<bool>((*chain)->read({at}, buffer));
    }
    if (!writable) return;
    StandIn target(**chain);
    for (const auto at : {std::uint64_t{0}, size / 2, size - std::min<std::uint64_t>(size, 700)}) {
        const auto some = std::min<std::uint64_t>(700, size - at);
        (void)static_cast<bool>(target.write({at}, std::span(buffer).first(std::min(some, bytes))));
    }
    (void)static_cast<bool>(target.discard({{0}, size}));
    if (!target.flush()) return;
    for (int i = 0; i < 1000 && (*chain)->top().has_work(); i++)
        if (!(*chain)->top().work()) break;
    (void)static_cast<bool>((*chain)->top().close());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const auto bytes = std::as_bytes(std::span(data, size));
    const auto* format = find_format(DMU_FUZZ_FORMAT);
    if (format == nullptr) std::abort();
    (void)format->recognises(bytes);
    const auto store_of = [](std::span<const std::byte> content) {
        auto store = std::make_shared<MemoryStore>();
        store->bytes.assign(content.begin(), content.end());
        store->capacity = 64 << 20;
        return store;
    };
    const auto fresh = [&] { return Files{store_of(bytes), store_of(bytes.subspan(std::min(size, other_at)))}; };
    for (const auto repair : {Repair::none, Repair::all}) {
        auto files = fresh();
        MemoryFile file(files.image, "/image", true);
        Others others(files);
        (void)static_cast<bool>(format->check(file, {repair, &others}));
    }
    use(fresh(), false);
    use(fresh(), true);
    return 0;
}
