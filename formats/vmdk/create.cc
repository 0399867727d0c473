// SPDX-License-Identifier: GPL-2.0-or-later
#include "formats/vmdk/create.h"

#include <algorithm>
#include <array>
#include <bit>
#include <random>

#include "formats/core/endian.h"
#include "formats/vmdk/descriptor.h"
#include "formats/vmdk/new_extent.h"
#include "formats/vmdk/vmdk_image.h"

namespace dmu::vmdk {

namespace {

Error wrong(const BlockFile& file, Code code, const std::string& what) {
    return {code, "create vmdk image '" + file.name() + "': " + what};
}

constexpr std::uint64_t split_sectors = 4192256;  // 2047 MiB, as VMware splits

struct Subformat {
    const char* name;
    ExtentType type;
    bool is_split, is_embedded;
    const char* suffix;   // of the extent's file, before its number
    std::uint32_t grain;  // bytes; 0: none
};

constexpr std::array<Subformat, 7> subformats{{
    {"monolithicSparse", ExtentType::sparse, false, true, "", 65536},
    {"monolithicFlat", ExtentType::flat, false, false, "-flat", 0},
    {"twoGbMaxExtentSparse", ExtentType::sparse, true, false, "-s", 65536},
    {"twoGbMaxExtentFlat", ExtentType::flat, true, false, "-f", 0},
    {"streamOptimized", ExtentType::sparse, false, true, "", 65536},
    {"vmfs", ExtentType::vmfs, false, false, "-flat", 0},
    {"vmfsSparse", ExtentType::vmfs_sparse, false, false, "-delta", 512},
}};

struct Plan {
    const Subformat* subformat = &subformats[0];
    bool zeroed_grain = false;
    std::uint64_t sectors = 0, extent_sectors = 0, grain = 0;  // grain: sectors
    NewDescriptor descriptor;
    bool is_stream() const { return subformat->name == std::string("streamOptimized"); }
};

Status take_option(const BlockFile& file, const std::string& key, const std::string& value, Plan& plan) {
    const auto bad = [&] { return wrong(file, Code::invalid, "option '" + key + "=" + value + "' is not valid"); };
    if (key == "subformat") {
        const auto* found =
            std::find_if(subformats.begin(), subformats.end(), [&](const auto& each) { return value == each.name; });
        if (found == subformats.end()) return bad();
        plan.subformat = found;
    } else if (key == "zeroed_grain") {
        if (value != "on" && value != "off") return bad();
        plan.zeroed_grain = value == "on";
    } else if (key == "adapter_type") {
        if (value != "ide" && value != "buslogic" && value != "lsilogic" && value != "legacyESX") return bad();
        plan.descriptor.adapter_type = value;
    } else if (key == "hwversion") {
        if (value.empty() || value.find_first_not_of("0123456789") != value.npos || value.size() > 10) return bad();
        plan.descriptor.hardware_version = value;
    } else if (key == "lazy_extents") {
        if (value != "on" && value != "off") return bad();
        plan.descriptor.is_lazy = value == "on";
    } else if (key == "extent_size") {
        if (value.empty() || value.find_first_not_of("0123456789") != value.npos || value.size() > 15) return bad();
        plan.extent_sectors = std::stoull(value) / sector_size;
        if (plan.extent_sectors == 0 || plan.extent_sectors > split_sectors) return bad();
    } else {
        return wrong(file, Code::invalid, "there is no option '" + key + "'");
    }
    return ok();
}

// From what the overlay was told, else from the backing image itself.
Result<Parent> find_parent(const BlockFile& file, const CreateOptions& options) {
    auto backing = *options.backing;
    if (backing.identity.empty() && options.neighbours != nullptr) {
        auto handle = options.neighbours->open(backing.path, {false, true});
        if (!handle) return handle.error();
        OpenOptions header_only;
        header_only.info_only = true;
        auto image = VmdkImage::open(std::move(*handle), header_only);
        if (!image) return image.error().in("backing file");
        backing.identity = (*image)->info().identity;
    }
    return parent_of(backing, file.name());
}

Status plan_size(const BlockFile& file, const CreateOptions& options, Plan& plan) {
    const auto& kind = *plan.subformat;
    if (options.virtual_size == 0) return wrong(file, Code::invalid, "a disk of 0 bytes can't be created");
    if (options.virtual_size > max_disk_sectors * sector_size)
        return wrong(file, Code::invalid, "the disk is too large");
    plan.sectors = align_up(options.virtual_size, sector_size) / sector_size;
    if (kind.grain == 0 && options.cluster_size != 0)
        return wrong(file, Code::unsupported, "flat extents have no grains (clusters)");
    const std::uint32_t grain = options.cluster_size != 0 ? options.cluster_size : kind.grain;
    const std::uint32_t least = kind.type == ExtentType::vmfs_sparse ? 512 : 8192;
    if (kind.grain != 0 && (!std::has_single_bit(grain) || grain < least || grain > 1 << 26))
        return wrong(file, Code::invalid,
                     "a grain (cluster) of " + std::to_string(grain) + " bytes; a power of two from " +
                         std::to_string(least) + " to 64 MiB is possible");
    plan.grain = grain / sector_size;
    if (plan.extent_sectors == 0) plan.extent_sectors = split_sectors;
    if (kind.grain != 0) plan.extent_sectors = align_up(plan.extent_sectors, plan.grain);
    if (!kind.is_split) plan.extent_sectors = plan.sectors;
    if ((plan.sectors + plan.extent_sectors - 1) / plan.extent_sectors > max_extents)
        return wrong(file, Code::invalid, "the disk would have too many extents");
    if (kind.grain != 0 && !kind.is_split && plan.sectors >= most_sectors)
        return wrong(file, Code::invalid,
                     "the disk is too large for one sparse extent (2 TiB); take twoGbMaxExtentSparse");
    return ok();
}

Result<Plan> make_plan(const BlockFile& file, const CreateOptions& options) {
    Plan plan;
    for (const auto& [key, value] : options.options) {
        auto taken = take_option(file, key, value, plan);
        if (!taken) return taken.error();
    }
    auto sized = plan_size(file, options, plan);
    if (!sized) return sized.error();
    const auto& kind = *plan.subformat;
    if (plan.zeroed_grain && kind.type != ExtentType::sparse)
        return wrong(file, Code::invalid, std::string(kind.name) + " has no zeroed grains");
    if (plan.descriptor.is_lazy && (!kind.is_split || kind.type != ExtentType::sparse))
        return wrong(file, Code::invalid, std::string(kind.name) + " has no extents that could come later");
    if (!kind.is_embedded && options.neighbours == nullptr)
        return wrong(file, Code::unsupported, "its extents can't be made here");
    if (options.backing) {
        if (kind.grain == 0 || plan.is_stream())
            return wrong(file, Code::unsupported, std::string("a disk of kind ") + kind.name + " has no backing file");
        auto parent = find_parent(file, options);
        if (!parent) return parent.error();
        plan.descriptor.parent = *parent;
    }
    return plan;
}

std::string stem_of(const std::string& path) {
    auto name = path.substr(path.rfind('/') + 1);
    if (name.size() > 5 && name.ends_with(".vmdk")) name.resize(name.size() - 5);
    return name;
}

Status list_extents(const BlockFile& file, Plan& plan) {
    const auto& kind = *plan.subformat;
    const auto stem = stem_of(file.name());
    if (stem.find_first_of("\"\n\r") != stem.npos)
        return wrong(file, Code::invalid, "a name with quotes or newlines can't be written into a descriptor");
    unsigned count = 0;
    for (std::uint64_t at = 0; at < plan.sectors; at += plan.extent_sectors) {
        ExtentLine line;
        line.type = kind.type;
        line.sectors = std::min(plan.extent_sectors, plan.sectors - at);
        auto digits = std::to_string(++count);
        if (digits.size() < 3) digits.insert(0, 3 - digits.size(), '0');
        line.name = kind.is_embedded ? file.name().substr(file.name().rfind('/') + 1)
                                     : stem + kind.suffix + (kind.is_split ? digits : "") + ".vmdk";
        plan.descriptor.extents.push_back(std::move(line));
    }
    std::random_device random;
    plan.descriptor.cid = static_cast<std::uint32_t>(random() % 0xfffffffdu) + 1;
    plan.descriptor.create_type = kind.name;
    plan.descriptor.sectors = plan.sectors;
    return ok();
}

Status make_extent(BlockFile& file, const ExtentLine& line, const Plan& plan, const std::string& descriptor) {
    switch (line.type) {
        case ExtentType::flat:
        case ExtentType::vmfs: {
            auto sized = file.truncate(line.sectors * sector_size);
            return sized ? file.sync() : sized;
        }
        case ExtentType::vmfs_sparse:
            return make_cowd(file, line.sectors, plan.grain);
        default:
            if (plan.is_stream()) return make_stream(file, line.sectors, plan.grain, descriptor);
            return make_hosted(file, line.sectors, plan.grain, plan.zeroed_grain, descriptor);
    }
}

}  // namespace

Status create_image(BlockFile& file, const CreateOptions& options) {
    auto plan = make_plan(file, options);
    if (!plan) return plan.error();
    if (file.fixed_size())
        return wrong(file, Code::unsupported, "a vmdk image grows, a block device does not; use a file");
    const auto size = file.size();
    if (!size) return size.error();
    if (*size != 0) return wrong(file, Code::invalid, "the file is not empty");
    auto done = list_extents(file, *plan);
    if (!done) return done;
    const auto text = make_descriptor(plan->descriptor);
    if (plan->subformat->is_embedded) return make_extent(file, plan->descriptor.extents.front(), *plan, text);

    // The descriptor last: before it there is no disk.
    for (const auto& line : plan->descriptor.extents) {
        auto extent = options.neighbours->create(line.name);
        if (!extent) return extent.error().in("create vmdk image '" + file.name() + "'");
        done = make_extent(**extent, line, *plan, "");
        if (!done) return done;
        if (plan->descriptor.is_lazy) break;
    }
    done = file.write(0, std::as_bytes(std::span(text)));
    return done ? file.sync() : done;
}

}  // namespace dmu::vmdk
