// SPDX-License-Identifier: GPL-2.0-or-later
// VMDK disks in memory, and an encoder of every kind of extent. The encoder is written
// from VMware's documents, with their figures, and knows nothing of formats/vmdk.
#pragma once

#include <zlib.h>

#include <set>

#include "formats/core/neighbours.h"
#include "tests/unit/formats/support.h"

namespace dmu {

// The files beside an image, by name.
class ExtentFiles final : public Neighbours {
public:
    ExtentFiles(MemoryDisks& disks, std::string directory) : disks_(disks), directory_(std::move(directory)) {}
    Result<std::unique_ptr<BlockFile>> open(const std::string& name, OpenMode mode) override {
        return MemoryDisks::open(&disks_, {0, 1, directory_ + name, mode, false});
    }
    Result<std::unique_ptr<BlockFile>> create(const std::string& name) override {
        return MemoryDisks::open(&disks_, {0, 1, directory_ + name, {true, true}, true});
    }

private:
    MemoryDisks& disks_;
    const std::string directory_;
};

using Options = std::vector<std::pair<std::string, std::string>>;

struct VmdkDisks : MemoryDisks {
    ExtentFiles neighbours{*this, "/m/"};

    Status create_vmdk(const std::string& path, std::uint64_t size, Options options, std::uint32_t grain = 0,
                       const std::string& backing = "") {
        CreateOptions how{size, grain, {}};
        how.options = std::move(options);
        how.neighbours = &neighbours;
        if (!backing.empty()) how.backing = BackingReference{backing, "vmdk"};
        MemoryFile file(add(path), path);
        return find_format("vmdk")->create(file, how);
    }
    Result<CheckReport> check_vmdk(const std::string& path, Repair repair = Repair::none) {
        MemoryFile file(stores[path], path, repair != Repair::none);
        return find_format("vmdk")->check(file, {repair, &neighbours});
    }
    void put(const std::string& path, const Bytes& bytes) { add(path)->bytes = bytes; }
    void put(const std::string& path, const std::string& text) {
        const auto bytes = std::as_bytes(std::span(text));
        put(path, Bytes(bytes.begin(), bytes.end()));
    }
    Result<Bytes> content(const std::string& spec) {
        auto opened = chain(spec, false);
        if (!opened) return opened.error();
        Bytes bytes((*opened)->top().info().virtual_size);
        auto done = (*opened)->read({0}, bytes);
        if (!done) return done.error();
        return bytes;
    }
};

inline std::string descriptor_text(const std::string& extents, const std::string& more = "",
                                   const std::string& type = "custom") {
    return "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"" + type + "\"\n" + more +
           extents + "\n#DDB\nddb.adapterType = \"ide\"\n";
}

template <typename T>
void put_le(Bytes& bytes, std::size_t at, T value) {
    if (bytes.size() < at + sizeof(T)) bytes.resize(at + sizeof(T));
    for (std::size_t i = 0; i < sizeof(T); i++) bytes[at + i] = static_cast<std::byte>(value >> 8 * i);
}

inline void put_bytes(Bytes& bytes, std::size_t at, const Bytes& from) {
    if (bytes.size() < at + from.size()) bytes.resize(at + from.size());
    std::copy(from.begin(), from.end(), bytes.begin() + static_cast<std::ptrdiff_t>(at));
}

inline void put_text(Bytes& bytes, std::size_t at, const std::string& text) {
    const auto from = std::as_bytes(std::span(text));
    put_bytes(bytes, at, Bytes(from.begin(), from.end()));
}

// What an extent holds, by grain; grains that are not there are unallocated.
struct ExtentContent {
    std::uint64_t capacity = 0, grain = 16;  // sectors
    std::map<std::uint64_t, Bytes> grains;
    std::set<std::uint64_t> zeroed;
    std::uint64_t grain_bytes() const { return grain * 512; }
};

struct HostedKind {
    std::uint32_t version = 1, flags = 3;
    std::string descriptor;  // empty: none embedded
    // Grains that only the redundant copy of the tables knows.
    std::map<std::uint64_t, Bytes> only_redundant{};
};

constexpr std::size_t hosted_descriptor_sectors = 20;

// "SparseExtentHeader" of the document.
inline void put_hosted_header(Bytes& out, std::size_t at, const ExtentContent& content, const HostedKind& kind,
                              std::uint64_t rgd, std::uint64_t gd, std::uint64_t overhead) {
    put_text(out, at, "KDMV");
    put_le<std::uint32_t>(out, at + 4, kind.version);
    put_le<std::uint32_t>(out, at + 8, kind.flags);
    put_le<std::uint64_t>(out, at + 12, content.capacity);
    put_le<std::uint64_t>(out, at + 20, content.grain);
    put_le<std::uint64_t>(out, at + 28, kind.descriptor.empty() ? 0 : 1);
    put_le<std::uint64_t>(out, at + 36, kind.descriptor.empty() ? 0 : hosted_descriptor_sectors);
    put_le<std::uint32_t>(out, at + 44, 512);
    put_le<std::uint64_t>(out, at + 48, rgd);
    put_le<std::uint64_t>(out, at + 56, gd);
    put_le<std::uint64_t>(out, at + 64, overhead);
    put_text(out, at + 73, "\n \r\n");
    put_le<std::uint16_t>(out, at + 77, (kind.flags & 1 << 16) != 0 ? 1 : 0);
    put_le<std::uint8_t>(out, at + 511, 0);
}

inline Bytes encode_hosted_extent(const ExtentContent& content, const HostedKind& kind) {
    Bytes out;
    const auto tables = (content.capacity + content.grain * 512 - 1) / (content.grain * 512);
    const auto directory_sectors = (tables * 4 + 511) / 512;
    const auto rgd = kind.descriptor.empty() ? 1 : 1 + hosted_descriptor_sectors;
    const auto gd = rgd + directory_sectors + tables * 4;
    const auto end = gd + directory_sectors + tables * 4;
    const auto overhead = (end + content.grain - 1) / content.grain * content.grain;
    put_hosted_header(out, 0, content, kind, rgd, gd, overhead);
    if (!kind.descriptor.empty()) put_text(out, 512, kind.descriptor);
    out.resize(overhead * 512);
    auto next = overhead;
    const auto enter = [&](std::uint64_t directory, std::uint64_t grain, std::uint64_t sector) {
        put_le<std::uint32_t>(out, (directory + directory_sectors) * 512 + grain * 4,
                              static_cast<std::uint32_t>(sector));
    };
    for (std::uint64_t i = 0; i < tables; i++)
        for (const auto directory : {rgd, gd})
            put_le<std::uint32_t>(out, directory * 512 + i * 4,
                                  static_cast<std::uint32_t>(directory + directory_sectors + i * 4));
    for (const auto* grains : {&content.grains, &kind.only_redundant})
        for (const auto& [index, bytes] : *grains) {
            put_bytes(out, next * 512, bytes);
            if (grains == &content.grains) enter(gd, index, next);
            enter(rgd, index, next);
            next += content.grain;
            out.resize(next * 512);
        }
    for (const auto index : content.zeroed) enter(gd, index, 1), enter(rgd, index, 1);
    return out;
}

inline Bytes zlib_packed(const Bytes& from) {
    auto length = ::compressBound(static_cast<uLong>(from.size()));
    Bytes out(length);
    ::compress(reinterpret_cast<Bytef*>(out.data()), &length, reinterpret_cast<const Bytef*>(from.data()),
               static_cast<uLong>(from.size()));
    out.resize(length);
    return out;
}

// A stream with markers, grain tables behind their grains, and the footer.
inline Bytes encode_stream(const ExtentContent& content, const std::string& descriptor) {
    const HostedKind kind{3, 1 | 1 << 16 | 1 << 17, descriptor};
    Bytes out;
    put_hosted_header(out, 0, content, kind, 0, ~0ull, 128);
    put_text(out, 512, descriptor);
    out.resize(128 * 512);
    const auto pad = [&] { out.resize((out.size() + 511) / 512 * 512); };
    const auto marker = [&](std::uint64_t sectors, std::uint32_t type) {
        const auto at = out.size();
        out.resize(at + 512);
        put_le<std::uint64_t>(out, at, sectors);
        put_le<std::uint32_t>(out, at + 12, type);
    };
    std::map<std::uint64_t, std::map<std::uint64_t, std::uint64_t>> tables;
    for (const auto& [index, bytes] : content.grains) {
        const auto at = out.size();
        const auto packed = zlib_packed(bytes);
        tables[index / 512][index % 512] = at / 512;
        put_le<std::uint64_t>(out, at, index * content.grain);
        put_le<std::uint32_t>(out, at + 8, static_cast<std::uint32_t>(packed.size()));
        put_bytes(out, at + 12, packed);
        pad();
    }
    Bytes directory(((content.capacity + content.grain * 512 - 1) / (content.grain * 512)) * 4);
    for (const auto& [index, entries] : tables) {
        marker(4, 1);
        put_le<std::uint32_t>(directory, index * 4, static_cast<std::uint32_t>(out.size() / 512));
        Bytes table(2048);
        for (const auto& [entry, sector] : entries)
            put_le<std::uint32_t>(table, entry * 4, static_cast<std::uint32_t>(sector));
        put_bytes(out, out.size(), table);
    }
    marker((directory.size() + 511) / 512, 2);
    const auto gd = out.size() / 512;
    put_bytes(out, out.size(), directory);
    pad();
    marker(1, 3);
    put_hosted_header(out, out.size(), content, kind, 0, gd, 128);
    marker(0, 0);
    return out;
}

// "COWDisk_Header" of the document.
inline Bytes encode_cowd_extent(const ExtentContent& content) {
    Bytes out(2048);
    const auto tables = (content.capacity + content.grain * 4096 - 1) / (content.grain * 4096);
    std::uint64_t next = 4 + (tables * 4 + 511) / 512;
    put_text(out, 0, "COWD");
    put_le<std::uint32_t>(out, 4, 1);
    put_le<std::uint32_t>(out, 8, 3);
    put_le<std::uint32_t>(out, 12, static_cast<std::uint32_t>(content.capacity));
    put_le<std::uint32_t>(out, 16, static_cast<std::uint32_t>(content.grain));
    put_le<std::uint32_t>(out, 20, 4);
    put_le<std::uint32_t>(out, 24, static_cast<std::uint32_t>(tables));
    out.resize(next * 512);
    std::map<std::uint64_t, std::uint64_t> placed;
    for (const auto& [index, bytes] : content.grains) {
        auto& table = placed[index / 4096];
        if (table == 0) {
            table = next;
            put_le<std::uint32_t>(out, 2048 + index / 4096 * 4, static_cast<std::uint32_t>(table));
            next += 32;
            out.resize(next * 512);
        }
        put_le<std::uint32_t>(out, table * 512 + index % 4096 * 4, static_cast<std::uint32_t>(next));
        put_bytes(out, next * 512, bytes);
        next += content.grain;
        out.resize(next * 512);
    }
    put_le<std::uint32_t>(out, 28, static_cast<std::uint32_t>(next));
    return out;
}

// Entries of a seSparse extent: zeroed ones alternate between unmapped and zero.
inline Bytes encode_se_extent(const ExtentContent& content, bool replay = false) {
    const auto tables = (content.capacity + 8 * 4096 - 1) / (8 * 4096);
    const auto directory_sectors = (tables * 8 + 511) / 512;
    const std::uint64_t directory = 8, first_table = directory + directory_sectors;
    const auto grains = (first_table + tables * 64 + 7) / 8 * 8;
    Bytes out;
    const std::pair<std::size_t, std::uint64_t> fields[] = {{0, 0xcafebabe},
                                                            {8, 0x200000001},
                                                            {16, content.capacity},
                                                            {24, 8},
                                                            {32, 64},
                                                            {80, 1},
                                                            {88, 1},
                                                            {96, 2},
                                                            {104, 2},
                                                            {112, 4},
                                                            {120, 4},
                                                            {128, directory},
                                                            {136, directory_sectors},
                                                            {144, first_table},
                                                            {152, tables * 64},
                                                            {160, 0},
                                                            {192, grains},
                                                            {200, content.capacity}};
    for (const auto& [at, value] : fields) put_le<std::uint64_t>(out, at, value);
    put_le<std::uint64_t>(out, 160, grains);
    put_le<std::uint64_t>(out, 176, grains);
    put_le<std::uint64_t>(out, 512, 0xcafecafe);
    put_le<std::uint64_t>(out, 512 + 24, replay ? 1 : 0);
    out.resize(grains * 512);
    const auto entry = [&](std::uint64_t index, std::uint64_t value) {
        put_le<std::uint64_t>(out, directory * 512 + index / 4096 * 8, 0x1000000000000000ull | index / 4096);
        put_le<std::uint64_t>(out, (first_table + index / 4096 * 64) * 512 + index % 4096 * 8, value);
    };
    std::uint64_t next = 0;
    for (const auto& [index, bytes] : content.grains) {
        entry(index, 3ull << 60 | (next & 0xfff) << 48 | next >> 12);
        put_bytes(out, (grains + next * 8) * 512, bytes);
        next++;
    }
    for (const auto index : content.zeroed) entry(index, (index % 2 ? 1ull : 2ull) << 60);
    out.resize(std::max<std::size_t>(out.size(), (grains + next * 8) * 512));
    return out;
}

// Some grains with a pattern, their content as a disk.
inline ExtentContent some_content(std::uint64_t capacity, std::uint64_t grain, std::uint64_t seed, Bytes& disk) {
    ExtentContent content{capacity, grain, {}, {}};
    std::mt19937_64 random(seed);
    disk.assign(capacity * 512, std::byte{0});
    const auto count = (capacity + grain - 1) / grain;
    for (std::uint64_t i = 0; i < count; i++) {
        if (i != count - 1 && random() % 3 != 0) continue;
        content.grains[i] = pattern(std::min(grain, capacity - i * grain) * 512, random());
        put_bytes(disk, i * grain * 512, content.grains[i]);
    }
    return content;
}

}  // namespace dmu
