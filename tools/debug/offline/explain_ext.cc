// SPDX-License-Identifier: GPL-2.0-or-later
// ext2, ext3 and ext4, by libext2fs: the layout, the owners of blocks, their names.
#include <ext2fs/ext2fs.h>

#include <optional>

#include "tools/debug/offline/explain_parts.h"
#include "tools/debug/offline/journal_block.h"

namespace dmu::debug {

namespace {

struct FsEnd {
    void operator()(::ext2_filsys fs) const { ::ext2fs_free(fs); }
};
using Fs = std::unique_ptr<std::remove_pointer_t<::ext2_filsys>, FsEnd>;

enum class What { super, descriptors, spare_descriptors, block_bitmap, inode_bitmap, inode_table, owned };

// Blocks that are one thing.
struct Extent {
    What what;
    std::uint64_t first;  // of the run: the group's number, or the block's in the file
    ::ext2_ino_t inode;   // of owned ones
    bool of_blocks;       // owned: they hold the file's block map, not its contents
    bool operator==(const Extent&) const = default;
};

class Ext final : public Part {
public:
    explicit Ext(Fs fs) : fs_(std::move(fs)), block_(fs_->blocksize) {
        lay_out();
        find_owners();
        read_journal_super();
    }

    std::vector<Explanation> explain(std::uint64_t sector, std::uint64_t sectors,
                                     std::span<const std::byte> data) override {
        std::vector<Explanation> found;
        const auto per_block = block_ / sector_bytes, end = sector + sectors;
        for (auto at = sector; at < end;) {
            const auto block = at / per_block;
            std::uint64_t stop_block = 0;
            const auto* range = extents_.find(block, stop_block);
            // A journal's blocks and an inode table's are each for themselves.
            if (range != nullptr && (range->value.what == What::inode_table || is_journal(range->value)))
                stop_block = block + 1;
            const auto stop = stop_block > end / per_block ? end : std::min(end, stop_block * per_block);
            std::span<const std::byte> bytes;
            if (!data.empty() && at % per_block == 0) bytes = data.subspan((at - sector) * sector_bytes);
            const auto text = range != nullptr ? text_of(*range, block, bytes) : free_text(at);
            if (!found.empty() && found.back().text == text)
                found.back().sectors += stop - at;
            else
                found.push_back({at, stop - at, text});
            at = stop;
        }
        return found;
    }

private:
    // ---------------------------------------------------------------- layout ---
    void lay_out() {
        for (::dgrp_t group = 0; group < fs_->group_desc_count; group++) {
            ::blk64_t super = 0, old_descriptors = 0, new_descriptors = 0;
            ::blk_t used = 0;
            ::ext2fs_super_and_bgd_loc2(fs_.get(), group, &super, &old_descriptors, &new_descriptors, &used);
            // A first super block lies in block 0 behind the boot sector.
            if (super != 0 || group == 0) add(super, 1, What::super, group);
            if (old_descriptors != 0) {
                const auto spare = fs_->super->s_reserved_gdt_blocks;
                add(old_descriptors, fs_->desc_blocks, What::descriptors, group);
                add(old_descriptors + fs_->desc_blocks, spare, What::spare_descriptors, group);
            }
            if (new_descriptors != 0) add(new_descriptors, 1, What::descriptors, group);
            add(::ext2fs_block_bitmap_loc(fs_.get(), group), 1, What::block_bitmap, group);
            add(::ext2fs_inode_bitmap_loc(fs_.get(), group), 1, What::inode_bitmap, group);
            add(::ext2fs_inode_table_loc(fs_.get(), group), fs_->inode_blocks_per_group, What::inode_table, group);
        }
    }

    void add(std::uint64_t block, std::uint64_t count, What what, std::uint64_t group) {
        if (block != 0 || what == What::super) extents_.add(block, count, {what, group, 0, false});
    }

    // ---------------------------------------------------------------- owners ---
    void find_owners() {
        ::ext2_inode_scan scan = nullptr;
        if (::ext2fs_open_inode_scan(fs_.get(), 0, &scan) != 0) return;
        ::ext2_inode inode{};
        for (::ext2_ino_t number = 0; ::ext2fs_get_next_inode(scan, &number, &inode) == 0 && number != 0;) {
            if (inode.i_links_count == 0 && number >= EXT2_FIRST_INODE(fs_->super)) continue;
            if (LINUX_S_ISDIR(inode.i_mode)) directories_.push_back(number);
            if (number == EXT2_RESIZE_INO || ::ext2fs_inode_has_valid_blocks2(fs_.get(), &inode) == 0) continue;
            Walk walk{this, number, 0, 0, 0, false};
            ::ext2fs_block_iterate3(fs_.get(), number, BLOCK_FLAG_READ_ONLY, nullptr, take_block, &walk);
            walk.end();
        }
        ::ext2fs_close_inode_scan(scan);
    }

    // Gathers runs of a file's blocks.
    struct Walk {
        Ext* self;
        ::ext2_ino_t inode;
        std::uint64_t block, count, logical;
        bool of_blocks;

        void end() {
            if (count != 0) self->extents_.add(block, count, {What::owned, logical, inode, of_blocks});
            count = 0;
        }
        void take(std::uint64_t at, std::int64_t number) {
            const bool blocks = number < 0;
            if (count != 0 && at == block + count && blocks == of_blocks &&
                (blocks || static_cast<std::uint64_t>(number) == logical + count)) {
                count++;
                return;
            }
            end();
            block = at, count = 1, of_blocks = blocks;
            logical = blocks ? 0 : static_cast<std::uint64_t>(number);
        }
    };
    static int take_block(::ext2_filsys, ::blk64_t* block, ::e2_blkcnt_t number, ::blk64_t, int, void* walk) {
        static_cast<Walk*>(walk)->take(*block, number);
        return 0;
    }

    // ----------------------------------------------------------------- names ---
    struct Name {
        ::ext2_ino_t parent;
        std::string name;
    };

    void read_names() {
        if (names_) return;
        names_.emplace();
        for (const auto directory : directories_)
            ::ext2fs_dir_iterate2(fs_.get(), directory, 0, nullptr, take_name, this);
    }
    static int take_name(::ext2_ino_t directory, int, ::ext2_dir_entry* entry, int, int, char*, void* self) {
        const std::string name(entry->name, static_cast<std::size_t>(::ext2fs_dirent_name_len(entry)));
        if (name != "." && name != ".." && entry->inode != 0)
            static_cast<Ext*>(self)->names_->try_emplace(entry->inode, Name{directory, name});
        return 0;
    }

    std::string path_of(::ext2_ino_t inode) {
        if (inode == EXT2_ROOT_INO) return "/";
        read_names();
        std::string path;
        // A damaged tree may be a circle.
        for (int depth = 0; inode != EXT2_ROOT_INO && depth < 64; depth++) {
            const auto found = names_->find(inode);
            if (found == names_->end()) return path.empty() ? special(inode) : "..." + path;
            path = "/" + found->second.name + path;
            inode = found->second.parent;
        }
        return path;
    }

    std::string special(::ext2_ino_t inode) const {
        if (inode == EXT2_RESIZE_INO) return "<resize>";
        return inode == fs_->super->s_journal_inum ? "<journal>" : "";
    }

    // ----------------------------------------------------------------- words ---
    using Found = Ranges<Extent>::Range;

    bool is_journal(const Extent& extent) const {
        return extent.what == What::owned && !extent.of_blocks && extent.inode == fs_->super->s_journal_inum &&
               extent.inode != 0;
    }

    std::string text_of(const Found& found, std::uint64_t block, std::span<const std::byte> data) {
        const auto& extent = found.value;
        const auto group = " of group " + std::to_string(extent.first);
        switch (extent.what) {
            case What::super:
                return extent.first == 0 ? "ext4 super block" : "ext4 super block (copy)" + group;
            case What::descriptors:
                return "ext4 group descriptors" + (extent.first == 0 ? "" : " (copy)" + group);
            case What::spare_descriptors:
                return "ext4 space for more group descriptors" + group;
            case What::block_bitmap:
                return "ext4 block bitmap" + group;
            case What::inode_bitmap:
                return "ext4 inode bitmap" + group;
            case What::inode_table:
                return inode_table_text(extent.first, block - found.start);
            case What::owned:
                break;
        }
        if (is_journal(extent)) return journal_text(extent.first + block - found.start, block, data);
        return owner_text(extent);
    }

    std::string free_text(std::uint64_t sector) const {
        const auto block = sector / (block_ / sector_bytes);
        if (block == 0 && fs_->super->s_first_data_block == 1) return sector < 2 ? "boot block" : "ext4 super block";
        return block < ::ext2fs_blocks_count(fs_->super) ? "ext4 free block" : "nothing, past the end of ext4";
    }

    std::string owner_text(const Extent& extent) {
        const auto path = path_of(extent.inode);
        const auto number = "inode " + std::to_string(extent.inode);
        const bool directory = std::binary_search(directories_.begin(), directories_.end(), extent.inode);
        const std::string kind = directory ? "directory " : "file ";
        const auto whose = path.empty() ? kind + "of " + number : kind + path + " (" + number + ")";
        return extent.of_blocks ? "ext4 block map of " + whose : "ext4 " + whose;
    }

    std::string inode_table_text(std::uint64_t group, std::uint64_t block) {
        const auto per_block = block_ / EXT2_INODE_SIZE(fs_->super);
        const auto first = group * fs_->super->s_inodes_per_group + block * per_block + 1, last = first + per_block - 1;
        std::string names;
        constexpr int most = 4;
        int shown = 0;
        for (auto inode = first; inode <= last; inode++) {
            const auto path = path_of(static_cast<::ext2_ino_t>(inode));
            if (path.empty()) continue;
            if (shown++ == most) {
                names += ", ...";
                break;
            }
            names += (names.empty() ? "" : ", ") + path;
        }
        if (names.empty()) return "ext4 inode table of group " + std::to_string(group);
        return "ext4 inodes " + std::to_string(first) + "-" + std::to_string(last) + " (" + names + ")";
    }

    // --------------------------------------------------------------- journal ---
    void read_journal_super() {
        const auto inode = fs_->super->s_journal_inum;
        ::blk64_t block = 0;
        if (inode == 0 || ::ext2fs_bmap2(fs_.get(), inode, nullptr, nullptr, 0, 0, nullptr, &block) != 0) return;
        std::vector<std::byte> raw(block_);
        if (::io_channel_read_blk64(fs_->io, block, 1, raw.data()) == 0) journal_ = JournalFormat::of_super(raw);
    }

    std::string journal_text(std::uint64_t number, std::uint64_t block, std::span<const std::byte> data) {
        std::vector<std::byte> raw;
        if (data.size() < block_) {
            raw.resize(block_);
            if (::io_channel_read_blk64(fs_->io, block, 1, raw.data()) == 0) data = raw;
        }
        if (data.size() < block_) return "ext4 journal, unreadable";
        const auto kind = journal_.examine(data.first(block_));
        // Without a number, so that neighbours are one.
        if (kind.text.empty()) return "ext4 journal: contents";
        const auto place = "ext4 journal block " + std::to_string(number) + ": ";
        auto text = place + kind.text;
        constexpr std::size_t most = 6;
        for (std::size_t i = 0; i < kind.blocks.size() && i < most; i++)
            text += (i == 0 ? " of " : ", ") + place_text(kind.blocks[i]);
        if (kind.blocks.size() > most) text += ", ... (" + std::to_string(kind.blocks.size()) + " blocks)";
        return text;
    }

    // What a block is that the journal holds a new version of.
    std::string place_text(std::uint64_t block) {
        std::uint64_t end = 0;
        const auto* range = extents_.find(block, end);
        auto text = range != nullptr ? text_of(*range, block, {}) : free_text(block * (block_ / sector_bytes));
        constexpr std::string_view prefix = "ext4 ";
        return text.starts_with(prefix) ? text.substr(prefix.size()) : text;
    }

    Fs fs_;
    const std::uint64_t block_;
    Ranges<Extent> extents_;
    std::vector<::ext2_ino_t> directories_;  // ascending
    std::optional<std::map<::ext2_ino_t, Name>> names_;
    JournalFormat journal_;
};

}  // namespace

std::unique_ptr<Part> open_ext(const std::string& path, std::uint64_t offset, std::uint64_t length) {
    constexpr int flags =
        EXT2_FLAG_64BITS | EXT2_FLAG_SOFTSUPP_FEATURES | EXT2_FLAG_IGNORE_CSUM_ERRORS | EXT2_FLAG_FORCE;
    constexpr std::uint64_t least = 8192;
    if (length < least) return nullptr;
    const auto options = "offset=" + std::to_string(offset);
    ::ext2_filsys raw = nullptr;
    const auto error = ::ext2fs_open2(path.c_str(), options.c_str(), flags, 0, 0, ::unix_io_manager, &raw);
    if (error != 0) return nullptr;
    return std::make_unique<Ext>(Fs(raw));
}

}  // namespace dmu::debug
