// SPDX-License-Identifier: GPL-2.0-or-later
// Any text as a VMDK descriptor, a file of its own and one inside an extent; what is right is
// changed as a write, a rebase and a resize do, and is right then too.
#include <cstdlib>

#include "formats/vmdk/descriptor.h"

namespace {

using namespace dmu::vmdk;

void must_parse(const std::string& text, Kept kept) {
    if (!parse_descriptor(text, kept, "fuzz")) std::abort();
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
        must_parse(next_cid(*descriptor), kept);
        must_parse(with_parent(*descriptor, Parent{1, "base.vmdk"}), kept);
        must_parse(with_parent(*descriptor, {}), kept);
    }
    return 0;
}
