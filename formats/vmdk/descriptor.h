// SPDX-License-Identifier: GPL-2.0-or-later
// The text that describes a VMDK disk: a file of its own, or embedded in the only extent.
//
//   # Disk DescriptorFile
//   version=1
//   CID=123a5678                  content identifier, changed when the disk is written to
//   parentCID=ffffffff            that of the parent; ffffffff: none
//   createType="monolithicSparse"
//   parentFileNameHint="base.vmdk"
//   encoding="windows-1252"       of the names
//   RW 4192256 SPARSE "disk-s001.vmdk"
//   RW 2048 FLAT "disk-f002.vmdk" 0
//   RDONLY 63 ZERO
//   ddb.adapterType = "ide"       the disk data base
//   ddb.dmuMade = "100"           ours: which extents' files were made; the others come with
//                                 their first write. Without this line all were.
//
// An extent: access (RW, RDONLY, NOACCESS), sectors, type, name, and for FLAT the sector
// in that file. Keys and words in any case. Extents lie on the disk in the order of their
// lines.
//
// Source: VMware, "Virtual Disk Format 5.0"; tried against qemu-img 7.2.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/core/image.h"
#include "formats/core/result.h"

namespace dmu::vmdk {

inline constexpr std::string_view blanks = " \t\r";
inline constexpr std::uint32_t no_parent = 0xffffffff;
inline constexpr std::size_t max_descriptor_bytes = 2 << 20;
inline constexpr std::size_t max_extents = 32768;
inline constexpr std::uint64_t max_disk_sectors = std::uint64_t{1} << 46;  // 32 PiB

enum class Access { read_write, read_only, none };
enum class ExtentType { sparse, flat, vmfs, vmfs_sparse, se_sparse, zero };

struct ExtentLine {
    Access access = Access::read_write;
    std::uint64_t sectors = 0;
    ExtentType type = ExtentType::sparse;
    std::string name;             // as written; empty: zero
    std::uint64_t at_sector = 0;  // flat: in the file
};

struct Descriptor {
    std::string text;
    std::uint32_t cid = 0;
    std::uint32_t parent_cid = no_parent;
    std::string create_type;
    std::string parent_name;  // as written; empty: no parent
    std::string encoding;     // empty: not said
    bool tracks_changes = false;
    std::vector<ExtentLine> extents;

    // Where the digits of the CID are in text.
    std::size_t cid_at = 0, cid_digits = 0;
    // And those of the first writable extent's size; none: no line has one.
    std::size_t size_at = 0, size_digits = 0;

    // A digit for each extent, 0: its file need not be there. Empty: all were made.
    std::string made;
    std::size_t made_at = 0;
    bool may_be_missing(std::size_t extent) const { return !made.empty() && made[extent] == '0'; }
};

// Whether the extents' lines are good for anything: those of an embedded descriptor are
// not, converters leave any name and access there.
enum class Kept { file, embedded };

// text: what was read; zeros at its end are left out. name: the file's.
Result<Descriptor> parse_descriptor(std::string_view text, Kept kept, const std::string& name);

// Whether a file's first bytes are a descriptor's.
bool is_descriptor(std::string_view head);

// "SPARSE"
const char* word_of(ExtentType type);
// The names by which a file may be known: in UTF-8, and as written where that differs.
std::vector<std::string> names_of(const std::string& written, const std::string& encoding);

// Of a line "key=value", in lower case.
std::string key_of(std::string_view line);

std::string hex8(std::uint32_t cid);
// Another one, as many hex digits long, never one that means something.
std::string next_cid(const Descriptor& descriptor);
struct Parent {
    std::uint32_t cid = no_parent;
    std::string name;
};
// What a backing reference says, if a descriptor can say it. image: for messages.
Result<Parent> parent_of(const BackingReference& backing, const std::string& image);
// The text with parentCID and parentFileNameHint changed or taken out (none).
std::string with_parent(const Descriptor& descriptor, const std::optional<Parent>& parent);

// The text with the first writable extent's size changed.
std::string with_sectors(const Descriptor& descriptor, std::uint64_t sectors);

// A fresh descriptor's text. ddb: lines to put at its end.
struct NewDescriptor {
    std::uint32_t cid = 0;
    std::optional<Parent> parent;
    std::string create_type;
    std::vector<ExtentLine> extents;
    bool is_lazy = false;       // only the first extent is made now
    std::uint64_t sectors = 0;  // of the disk, for the geometry
    std::string adapter_type = "ide", hardware_version = "4";
};
std::string make_descriptor(const NewDescriptor& plan);

}  // namespace dmu::vmdk
