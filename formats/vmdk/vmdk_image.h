// SPDX-License-Identifier: GPL-2.0-or-later
// An open VMDK disk: the extents that its descriptor lists, one after the other.
//
// files()[0] is the file that was opened: the descriptor, or the sparse extent that has
// one embedded. The extents' files follow in the order of their lines; that of an extent
// which the descriptor says was not made yet is a null pointer until the first write there
// (late_extent.cc).
//
// The content identifier (CID) changes when a disk that was opened for writing is first
// written to, so that overlays made before are known to be stale: durably, in place, by
// begin_writing(). Until then the image is write-protected.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "formats/core/image.h"
#include "formats/vmdk/descriptor.h"
#include "formats/vmdk/sparse_extent.h"
#include "formats/vmdk/stream_writer.h"

namespace dmu::vmdk {

class VmdkImage final : public Image {
public:
    static Result<std::unique_ptr<Image>> open(std::unique_ptr<BlockFile> file, const OpenOptions& options);

    const ImageInfo& info() const override { return info_; }
    const std::vector<BlockFile*>& files() const override { return files_; }
    using Image::look_up;
    Result<std::vector<Extent>> look_up(GuestRange range, LookAhead ahead) override;
    Status read_compressed(GuestOffset start, std::span<std::byte> into) override;
    bool write_protected() const override { return options_.writable && !is_marked_; }
    Status begin_writing() override;
    Result<Place> reserve(GuestRange range) override;
    Result<Place> reserve_any(std::uint64_t bytes) override;
    Status give_back(const Place& unused) override;
    Status apply(const Change& change) override;
    Status commit(DataState data) override;
    bool dirty() const override;
    void recycle() override;
    bool wants_recycling() const override;
    Status resize(std::uint64_t bytes) override;
    Status write_compressed(GuestOffset start, std::span<const std::byte> from) override;
    Status set_backing(const std::optional<BackingReference>& backing) override;
    Status close() override;
    std::uint64_t allocated_bytes() const override;

private:
    // A run of the disk that one extent has.
    struct Piece {
        std::uint64_t start = 0, length = 0;  // bytes
        Access access = Access::read_write;
        std::unique_ptr<SparseExtent> sparse;
        bool is_flat = false;    // none of the three: ZERO
        bool is_late = false;    // not made yet
        unsigned file = 0;       // flat, late
        std::uint64_t host = 0;  // flat: bytes
        std::uint64_t end() const { return start + length; }
        bool takes_places() const { return access == Access::read_write && (sparse || is_late); }
    };

    VmdkImage(std::unique_ptr<BlockFile> file, const OpenOptions& options)
        : file_(std::move(file)), files_{file_.get()}, options_(options) {}

    Error error(Code code, const std::string& what) const;

    // Opening (vmdk_open.cc)
    Status load();
    Status load_monolithic(const SparseHeader& header);
    Status read_descriptor(std::uint64_t at, std::uint64_t bytes, Kept kept);
    Status describe();
    void describe_extent(std::size_t index, const ExtentLine& line);
    Status open_extents();
    Status open_extent(const ExtentLine& line, bool may_be_missing);
    Result<unsigned> open_file(const ExtentLine& line, bool writable);
    Status add_flat(const ExtentLine& line, unsigned file);
    Status add_sparse(const ExtentLine& line, unsigned file);
    Piece next_piece(const ExtentLine& line) const;
    SparseExtent::Setup setup_of(const ExtentLine& line, unsigned file) const;
    Status check_distinct(unsigned file) const;
    Status check_writable();

    // Extents that come with their first write (late_extent.cc).
    Result<bool> is_late(const Result<unsigned>& file, const ExtentLine& line) const;
    Status add_late(const ExtentLine& line, const Result<unsigned>& file);
    Status make_sure(Piece& piece);
    Status make_late(Piece& piece, const ExtentLine& line);
    Result<std::unique_ptr<BlockFile>> open_blank(const std::string& name, std::uint64_t most);
    Status mark_made();
    const SparseHeader& first_header() const { return pieces_.front().sparse->header(); }

    Status clear_last_grain();
    Status grow_sparse(std::uint64_t sectors);

    Piece* find(std::uint64_t at);
    SparseExtent* extent_of(unsigned file);
    Status check_may_write() const;
    Status write_descriptor(const std::string& text);

    std::unique_ptr<BlockFile> file_;
    std::vector<std::unique_ptr<BlockFile>> others_;
    std::vector<BlockFile*> files_;
    const OpenOptions options_;
    ImageInfo info_;
    Descriptor descriptor_;
    std::uint64_t descriptor_at_ = 0;
    std::uint64_t descriptor_room_ = 0;  // bytes; 0: the file is nothing else
    std::vector<Piece> pieces_;
    std::vector<std::string> names_;  // of files_, as written; empty: the first
    unsigned pools_ = 0;              // sparse extents that take first writes
    bool is_marked_ = false;
    std::unique_ptr<StreamWriter> stream_;  // a fresh streamOptimized disk, to be filled
    bool is_streamed_ = false;              // something was
};

// The header of a sparse extent, from the footer where it is there.
Result<SparseHeader> read_sparse_header(BlockFile& file, ExtentType type);
// Whether two are the same file, by whatever name.
bool is_same_file(const BlockFile& a, const BlockFile& b);

}  // namespace dmu::vmdk
