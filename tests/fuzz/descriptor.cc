// SPDX-License-Identifier: GPL-2.0-or-later
// Any text as a VMDK descriptor, a file of its own and one inside an extent; what is right is
// changed as a write, a rebase and a resize do, and is right then too.
#include <cstdlib>

#include "formats/vmdk/descriptor.h"

namespace {

using namespace dmu::vmdk;

Descriptor must_parse(const std::string& text, Kept kept) {
    auto descriptor = parse_descriptor(text, kept, "fuzz");
    if (!descriptor) std::abort();
    return std::move(*descriptor);
}

void must_be(bool right) {
    if (!right) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    (void)is_descriptor(text);
    for (const auto kept : {Kept::file, Kept::embedded}) {
        const auto descriptor = parse_descriptor(text, kept, "fuzz");
        if (!descriptor) continue;
        (void)names_of(descriptor->parent_name, descriptor->encoding);
        for (const auto& extent : descriptor->extents) (void)names_of(extent.name, descriptor->encoding);
        auto written = descriptor->text;
        written.replace(descriptor->cid_at, descriptor->cid_digits, next_cid(*descriptor));
        must_be(must_parse(written, kept).cid != descriptor->cid);
        const auto child = must_parse(with_parent(*descriptor, Parent{1, "base.vmdk"}), kept);
        must_be(child.parent_cid == 1 && child.parent_name == "base.vmdk" && child.cid == descriptor->cid);
        must_be(must_parse(with_parent(child, {}), kept).parent_cid == no_parent);
        if (kept == Kept::file) {
            const auto resized = must_parse(with_sectors(*descriptor, 4711), kept);
            must_be(resized.extents.size() == descriptor->extents.size());
            must_be(descriptor->extents.front().access != Access::read_write ||
                    resized.extents.front().sectors == 4711);
        }
    }
    return 0;
}
