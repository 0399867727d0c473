// SPDX-License-Identifier: GPL-2.0-or-later
// XFS, roughly: super block, headers of the allocation groups, log; blocks that say what
// they are.
#include <cstring>

#include "formats/core/endian.h"
#include "tools/debug/offline/explain_parts.h"

namespace dmu::debug {

namespace {

// Of the super block; big-endian.
namespace at {
constexpr std::size_t block = 4, blocks = 8, log_start = 48, group_blocks = 84, groups = 88, log_blocks = 96,
                      sector = 102, group_log = 124;
constexpr std::size_t bytes = 128;
}  // namespace at

struct Magic {
    const char* bytes;
    const char* text;
};
constexpr std::array<Magic, 14> magics = {{{"XFSB", "super block"},
                                           {"XAGF", "free space header (AGF)"},
                                           {"XAGI", "inode header (AGI)"},
                                           {"XAFL", "free list (AGFL)"},
                                           {"AB3B", "free space tree, by block"},
                                           {"ABTB", "free space tree, by block"},
                                           {"AB3C", "free space tree, by size"},
                                           {"ABTC", "free space tree, by size"},
                                           {"IAB3", "inode tree"},
                                           {"IABT", "inode tree"},
                                           {"FIB3", "free inode tree"},
                                           {"R3FC", "reference tree"},
                                           {"RMB3", "owner tree"},
                                           {"XDB3", "directory block"}}};

class Xfs final : public Part {
public:
    Xfs(const ImageFile& file, std::uint64_t offset, std::span<const std::byte> super) : file_(file), offset_(offset) {
        block_ = load_be<std::uint32_t>(super, at::block);
        sector_ = load_be<std::uint16_t>(super, at::sector);
        group_blocks_ = load_be<std::uint32_t>(super, at::group_blocks);
        groups_ = load_be<std::uint32_t>(super, at::groups);
        log_blocks_ = load_be<std::uint32_t>(super, at::log_blocks);
        blocks_ = load_be<std::uint64_t>(super, at::blocks);
        // The group's number and the block inside it, packed.
        const auto log = load_be<std::uint64_t>(super, at::log_start);
        const auto bits = std::to_integer<unsigned>(super[at::group_log]);
        if (log != 0 && bits < 32) log_ = (log >> bits) * group_blocks_ + (log & ((std::uint64_t{1} << bits) - 1));
    }

    bool sensible() const {
        const auto power = [](std::uint64_t n) { return n != 0 && (n & (n - 1)) == 0; };
        return power(block_) && block_ >= sector_bytes && block_ <= 65536 && power(sector_) &&
               sector_ >= sector_bytes && sector_ <= block_ && group_blocks_ != 0 && groups_ != 0;
    }

    std::vector<Explanation> explain(std::uint64_t sector, std::uint64_t sectors,
                                     std::span<const std::byte> data) override {
        std::vector<Explanation> found;
        const auto end = sector + sectors;
        for (auto at = sector; at < end;) {
            std::uint64_t next = end;
            const auto bytes = data.empty() ? data : data.subspan((at - sector) * sector_bytes);
            auto text = "XFS " + text_at(at, next, bytes);
            next = std::min(next, end);
            if (!found.empty() && found.back().text == text)
                found.back().sectors += next - at;
            else
                found.push_back({at, next - at, std::move(text)});
            at = next;
        }
        return found;
    }

private:
    std::string text_at(std::uint64_t sector, std::uint64_t& next, std::span<const std::byte> data) const {
        const auto per_block = block_ / sector_bytes, per_sector = sector_ / sector_bytes;
        const auto block = sector / per_block;
        if (block >= blocks_) return "nothing, past its end";
        if (log_blocks_ != 0 && log_ != 0 && block >= log_ && block < log_ + log_blocks_) {
            next = (log_ + log_blocks_) * per_block;
            return "log";
        }
        const auto group = block / group_blocks_;
        const auto inside = sector - group * group_blocks_ * per_block;
        const auto of = " of group " + std::to_string(group);
        constexpr std::array<const char*, 4> headers = {"super block", "free space header (AGF)", "inode header (AGI)",
                                                        "free list (AGFL)"};
        if (inside / per_sector < headers.size()) {
            next = sector - inside % per_sector + per_sector;
            return headers.at(inside / per_sector) + of;
        }
        next = (block + 1) * per_block;
        return (sector % per_block == 0 ? by_magic(sector, data) : "block") + of;
    }

    std::string by_magic(std::uint64_t sector, std::span<const std::byte> data) const {
        std::array<std::byte, 4> first{};
        if (data.size() >= first.size())
            std::copy_n(data.begin(), first.size(), first.begin());
        else if (!file_.read(offset_ + sector * sector_bytes, first))
            return "block";
        for (const auto& magic : magics)
            if (std::memcmp(first.data(), magic.bytes, first.size()) == 0) return magic.text;
        return std::memcmp(first.data(), "IN", 2) == 0 ? "inodes" : "block";
    }

    const ImageFile& file_;
    std::uint64_t offset_, block_ = 0, sector_ = 0, group_blocks_ = 0, groups_ = 0, blocks_ = 0, log_ = 0,
                           log_blocks_ = 0;
};

}  // namespace

std::unique_ptr<Part> open_xfs(const ImageFile& file, std::uint64_t offset, std::uint64_t length) {
    std::array<std::byte, at::bytes> super{};
    if (length < super.size() || !file.read(offset, super) || std::memcmp(super.data(), "XFSB", 4) != 0) return nullptr;
    auto part = std::make_unique<Xfs>(file, offset, super);
    if (!part->sensible()) return nullptr;
    return part;
}

}  // namespace dmu::debug
