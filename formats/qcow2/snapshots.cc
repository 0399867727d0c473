// SPDX-License-Identifier: GPL-2.0-or-later
#include "formats/qcow2/snapshots.h"

#include "formats/core/endian.h"
#include "formats/core/units.h"

namespace dmu::qcow2 {

namespace {

constexpr std::uint64_t max_table_bytes = 64 << 20;
constexpr std::uint32_t max_extra_bytes = 1024;
constexpr std::size_t fixed_bytes = 40;

class Reader {
public:
    Reader(BlockFile& file, const Header& header, std::uint64_t file_bytes)
        : file_(file), header_(header), file_bytes_(file_bytes), at_(header.snapshots_offset) {}

    Result<SnapshotTable> run() {
        SnapshotTable table;
        for (std::uint32_t i = 0; i < header_.snapshots; i++) {
            SnapshotEntry entry;
            auto done = read_entry(entry, "snapshot " + std::to_string(i));
            if (!done) return done.error();
            table.entries.push_back(std::move(entry));
        }
        table.bytes = at_ - header_.snapshots_offset;
        return table;
    }

private:
    Error corrupt(const std::string& what) const {
        return {Code::corrupt, "qcow2 image '" + file_.name() + "': " + what};
    }

    Status take(std::span<std::byte> into, const std::string& who) {
        if (at_ > file_bytes_ || into.size() > file_bytes_ - at_)
            return corrupt("the entry of " + who + " ends past the end of the file");
        if (at_ + into.size() - header_.snapshots_offset > max_table_bytes)
            return corrupt("the snapshot table is larger than 64 MiB");
        auto done = file_.read(at_, into);
        at_ += into.size();
        return done;
    }

    Status read_entry(SnapshotEntry& entry, const std::string& who) {
        at_ = align_up(at_, 8);
        std::byte raw[fixed_bytes];
        auto done = take(raw, who);
        if (!done) return done;
        entry.l1_offset = load_be<std::uint64_t>(raw, 0);
        entry.l1_entries = load_be<std::uint32_t>(raw, 8);
        entry.what.created_seconds = load_be<std::uint32_t>(raw, 16);
        entry.what.created_nanoseconds = load_be<std::uint32_t>(raw, 20);
        entry.what.guest_nanoseconds = load_be<std::uint64_t>(raw, 24);
        entry.old_vm_state_bytes = load_be<std::uint32_t>(raw, 32);
        const auto extra = load_be<std::uint32_t>(raw, 36);
        if (extra > max_extra_bytes)
            return corrupt(who + " has " + std::to_string(extra) + " bytes of extra data; 1024 are allowed");
        entry.extra.resize(extra);
        done = take(entry.extra, who);
        if (done) done = read_text(entry.what.id, load_be<std::uint16_t>(raw, 12), who);
        if (done) done = read_text(entry.what.name, load_be<std::uint16_t>(raw, 14), who);
        if (!done) return done;
        at_ = align_up(at_, 8);
        entry.what.vm_state_bytes = extra >= 8 ? load_be<std::uint64_t>(entry.extra, 0) : entry.old_vm_state_bytes;
        entry.what.virtual_size = extra >= 16 ? load_be<std::uint64_t>(entry.extra, 8) : header_.size;
        return check_l1(entry, who);
    }

    Status read_text(std::string& text, std::size_t bytes, const std::string& who) {
        text.resize(bytes);
        return take(std::as_writable_bytes(std::span(text)), who);
    }

    Status check_l1(const SnapshotEntry& entry, const std::string& who) {
        const auto l1 = "the L1 table of " + who + " at byte " + std::to_string(entry.l1_offset);
        if (entry.l1_bytes() > max_l1_bytes) return corrupt(l1 + " is larger than 32 MiB");
        if (entry.l1_entries == 0) return ok();
        if (entry.l1_offset % header_.cluster_bytes() != 0) return corrupt(l1 + " is not aligned to clusters");
        if (entry.l1_offset < header_.cluster_bytes()) return corrupt(l1 + " lies over the header");
        const auto end = align_up(file_bytes_, header_.cluster_bytes());
        if (entry.l1_offset > end || entry.l1_bytes() > end - entry.l1_offset)
            return corrupt(l1 + " ends past the end of the file");
        return ok();
    }

    BlockFile& file_;
    const Header& header_;
    const std::uint64_t file_bytes_;
    std::uint64_t at_;
};

}  // namespace

Result<SnapshotTable> read_snapshots(BlockFile& file, const Header& header, std::uint64_t file_bytes) {
    if (header.snapshots == 0) return SnapshotTable{};
    return Reader(file, header, align_up(file_bytes, header.cluster_bytes())).run();
}

std::vector<std::byte> encode_snapshots(const std::vector<SnapshotEntry>& entries) {
    std::vector<std::byte> raw;
    for (const auto& entry : entries) {
        const auto at = raw.size();
        raw.resize(at + fixed_bytes);
        store_be<std::uint64_t>(raw, at, entry.l1_offset);
        store_be<std::uint32_t>(raw, at + 8, entry.l1_entries);
        store_be<std::uint16_t>(raw, at + 12, static_cast<std::uint16_t>(entry.what.id.size()));
        store_be<std::uint16_t>(raw, at + 14, static_cast<std::uint16_t>(entry.what.name.size()));
        store_be<std::uint32_t>(raw, at + 16, static_cast<std::uint32_t>(entry.what.created_seconds));
        store_be<std::uint32_t>(raw, at + 20, entry.what.created_nanoseconds);
        store_be<std::uint64_t>(raw, at + 24, entry.what.guest_nanoseconds);
        store_be<std::uint32_t>(raw, at + 32, entry.old_vm_state_bytes);
        store_be<std::uint32_t>(raw, at + 36, static_cast<std::uint32_t>(entry.extra.size()));
        const auto append = [&](std::span<const std::byte> bytes) {
            raw.insert(raw.end(), bytes.begin(), bytes.end());
        };
        append(entry.extra);
        append(std::as_bytes(std::span(entry.what.id)));
        append(std::as_bytes(std::span(entry.what.name)));
        raw.resize(align_up(raw.size(), 8));
    }
    return raw;
}

}  // namespace dmu::qcow2
