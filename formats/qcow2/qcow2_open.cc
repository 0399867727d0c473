// SPDX-License-Identifier: GPL-2.0-or-later
// Opening: header, L1, refcount table and snapshot table are read, nothing else.
#include <algorithm>
#include <array>

#include "formats/core/endian.h"
#include "formats/core/units.h"
#include "formats/qcow2/bitmaps.h"
#include "formats/qcow2/check.h"
#include "formats/qcow2/create.h"
#include "formats/qcow2/encryption.h"
#include "formats/qcow2/qcow2.h"
#include "formats/qcow2/qcow2_image.h"

namespace dmu {

namespace {

bool recognises_qcow2(std::span<const std::byte> head) {
    if (head.size() < 8 || load_be<std::uint32_t>(head, 0) != 0x514649fb) return false;
    const auto version = load_be<std::uint32_t>(head, 4);
    return version == 2 || version == 3;
}

}  // namespace

const Format qcow2_format{"qcow2", qcow2::Qcow2Image::open, qcow2::create_image, qcow2::check_image, recognises_qcow2};

namespace qcow2 {

Qcow2Image::Qcow2Image(std::unique_ptr<BlockFile> file, Header header, std::uint64_t file_bytes, bool writable,
                       std::uint64_t cache_bytes)
    : file_(std::move(file)),
      files_{file_.get()},
      header_(std::move(header)),
      file_bytes_(file_bytes),
      writable_(writable),
      cache_bytes_(cache_bytes),
      refcounts_(*file_, header_, cache_bytes_ / 2),
      allocator_(*file_, header_, refcounts_, metadata_),
      cache_(std::max<std::uint64_t>(cache_bytes_ / header_.cluster_bytes(), 4)) {
}

Error Qcow2Image::error(Code code, const std::string& what) const {
    return {code, "qcow2 image '" + file_->name() + "': " + what};
}

Error Qcow2Image::corrupt(const std::string& what) {
    if (writable_ && !corrupt_ && header_.version >= 3 && !l1_.empty()) {
        corrupt_ = true;
        header_.incompatible |= incompatible_corrupt;
        // Best effort: what is wrong is said anyway.
        if (write_header()) (void)file_->sync();
    }
    corrupt_ = true;
    return error(Code::corrupt, what + "; run a check of the image");
}

Result<Header> Qcow2Image::read_header(BlockFile& file, std::uint64_t file_bytes) {
    std::array<std::byte, fixed_bytes_v2> start{};
    auto done = file.read(0, start);
    if (!done) return done.error();
    const auto bytes = first_cluster_bytes(start, file_bytes, file.name());
    if (!bytes) return bytes.error();
    std::vector<std::byte> raw(*bytes);
    done = file.read(0, raw);
    if (!done) return done.error();
    return decode_header(raw, file_bytes, file.name());
}

Status Qcow2Image::check_mode(const OpenOptions& options) const {
    for (const auto& [key, value] : options.options)
        if (key != "key-file") return error(Code::invalid, "there is no option '" + key + "'");
    if (header_.encryption == Encryption::none && !options.options.empty())
        return error(Code::invalid, "option 'key-file' is given, but the image is not encrypted");
    if (!options.writable) return ok();
    if (file_->read_only()) return error(Code::denied, "the file is open for reading only");
    if ((header_.incompatible & incompatible_corrupt) != 0)
        return error(Code::corrupt, "it is marked corrupt and can only be read; run a check with repair");
    return ok();
}

Status Qcow2Image::make_cipher(const OpenOptions& options) {
    auto cipher = open_cipher(*file_, header_, file_bytes_, options);
    if (!cipher) return cipher.error();
    cipher_ = std::move(*cipher);
    return ok();
}

Status Qcow2Image::open_data_file(const OpenOptions& options) {
    if (!header_.has_data_file()) return ok();
    if (header_.snapshots != 0) return error(Code::corrupt, "it has an external data file and internal snapshots");
    const auto name = header_.extension_text(extension_data_file);
    if (name.empty()) return error(Code::corrupt, "it has an external data file, but does not name it");
    if (options.neighbours == nullptr)
        return error(Code::unsupported, "its external data file '" + name + "' can't be opened here");
    auto opened = options.neighbours->open(name, {writable_, true});
    if (!opened) return opened.error().in("data file of '" + file_->name() + "'");
    data_file_ = std::move(*opened);
    files_.push_back(data_file_.get());
    const auto bytes = data_file_->size();
    if (!bytes) return bytes.error();
    // Whoever made it may have left it short: the rest is a hole.
    if (!writable_ || *bytes >= data_end() || data_file_->fixed_size()) return ok();
    return data_file_->truncate(data_end());
}

void Qcow2Image::describe() {
    const auto on = [&](std::uint64_t features, std::uint64_t bit) { return (features & bit) != 0; };
    info_.format = "qcow2";
    info_.virtual_size = align_down(header_.size, sector_size);
    info_.grain = info_.cluster_size = static_cast<std::uint32_t>(cluster_bytes());
    info_.can_allocate = writable_;
    info_.returns_leases = writable_ && !header_.has_data_file();
    info_.encrypted = header_.encryption != Encryption::none;
    info_.backing.reset();
    if (!header_.backing.empty())
        info_.backing = BackingReference{header_.backing, header_.extension_text(extension_backing_format)};
    info_.discards_to_zero = !header_.raw_data_file() && (header_.version >= 3 || header_.backing.empty());
    info_.details = {{"compat", std::string(header_.version == 2 ? "0.10" : "1.1")},
                     {"compression-type", std::string(header_.compression == Compression::zstd ? "zstd" : "zlib")},
                     {"refcount-bits", std::uint64_t{header_.refcount_bits()}}};
    if (header_.version >= 3) {
        info_.details.push_back({"lazy-refcounts", on(header_.compatible, compatible_lazy_refcounts)});
        info_.details.push_back({"corrupt", on(header_.incompatible, incompatible_corrupt)});
        info_.details.push_back({"extended-l2", header_.extended_l2()});
        info_.details.push_back({"dirty-flag", on(header_.incompatible, incompatible_dirty)});
    }
    if (header_.has_data_file()) {
        info_.details.push_back({"data-file", header_.extension_text(extension_data_file)});
        info_.details.push_back({"data-file-raw", header_.raw_data_file()});
    }
    if (info_.encrypted)
        info_.details.push_back(
            {"encrypt/format", std::string(header_.encryption == Encryption::aes ? "aes" : "luks")});
}

Status Qcow2Image::read_l1() {
    std::vector<std::byte> raw(header_.l1_bytes());
    auto done = file_->read(header_.l1_offset, raw);
    if (!done) return done;
    l1_.resize(header_.l1_entries);
    for (std::size_t i = 0; i < l1_.size(); i++) l1_[i] = load_be<std::uint64_t>(raw, i * 8);
    return ok();
}

Status Qcow2Image::take_metadata() {
    std::uint64_t over = 0;  // where a table lies over another one
    const auto range = [&](std::uint64_t offset, std::uint64_t bytes) {
        const auto first = offset >> header_.cluster_bits;
        const auto count = align_up(bytes, cluster_bytes()) >> header_.cluster_bits;
        if (count != 0 && metadata_.fixed.touches(first, count)) over = offset;
        metadata_.fixed.add(first, count);
    };
    metadata_.clear();
    range(0, cluster_bytes());
    range(header_.l1_offset, header_.l1_bytes());
    range(header_.refcount_table_offset, header_.refcount_table_bytes());
    if (header_.snapshots != 0) range(header_.snapshots_offset, snapshots_.bytes);
    for (const auto& snapshot : snapshots_.entries) range(snapshot.l1_offset, snapshot.l1_bytes());
    const auto bitmaps = bitmaps_of(header_, file_->name());
    if (!bitmaps) return bitmaps.error();
    if (*bitmaps) range((*bitmaps)->directory_offset, (*bitmaps)->directory_bytes);
    if (writable_ && over != 0)
        return error(Code::corrupt, "the table at byte " + std::to_string(over) + " lies over other metadata");
    const auto crypto = crypto_of(header_, file_bytes_, file_->name());
    if (!crypto) return crypto.error();
    if (*crypto) {
        const auto first = (*crypto)->offset >> header_.cluster_bits;
        const auto count = align_up((*crypto)->bytes, cluster_bytes()) >> header_.cluster_bits;
        if (metadata_.fixed.touches(first, count))
            return error(Code::corrupt,
                         "the LUKS header at byte " + std::to_string((*crypto)->offset) + " lies over other metadata");
        metadata_.fixed.add(first, count);
    }

    const auto end = std::max(align_up(file_bytes_, cluster_bytes()), allocator_.end() << header_.cluster_bits);
    const auto there = [](std::uint64_t word) { return word != 0; };
    metadata_.expect_tables(
        static_cast<std::uint64_t>(std::count_if(l1_.begin(), l1_.end(), there) +
                                   std::count_if(refcounts_.table().begin(), refcounts_.table().end(), there)));
    for (std::uint64_t i = 0; i < l1_.size(); i++) {
        const auto offset = l1_[i] & offset_mask;
        if (offset == 0) continue;
        const auto who = "L2 table " + std::to_string(i) + " at byte " + std::to_string(offset);
        if (offset % cluster_bytes() != 0) return error(Code::corrupt, who + " is not aligned to clusters");
        if (offset >= end) return error(Code::corrupt, who + " lies past the end of the file");
        metadata_.add_table_unsorted(offset >> header_.cluster_bits);
    }
    for (const auto offset : refcounts_.table())
        if (offset != 0) metadata_.add_table_unsorted(offset >> header_.cluster_bits);
    metadata_.sort();
    if (const auto clash = metadata_.clash(); clash != 0)
        return error(Code::corrupt, "two pieces of metadata lie over each other at byte " +
                                        std::to_string(clash << header_.cluster_bits));
    return ok();
}

// A last cluster that the file's end cuts (most writers leave one) becomes whole.
Status Qcow2Image::pad_file() {
    if (file_->fixed_size() || file_bytes_ % cluster_bytes() == 0) return ok();
    const auto end = align_up(file_bytes_, cluster_bytes());
    const auto padded = file_->allocate(file_bytes_, end - file_bytes_);
    if (!padded) return padded.error();
    file_bytes_ = end;
    return ok();
}

Status Qcow2Image::read_tables() {
    auto read = read_snapshots(*file_, header_, file_bytes_);
    if (!read) return read.error();
    snapshots_ = std::move(*read);
    snapshot_list_.clear();
    for (const auto& entry : snapshots_.entries) snapshot_list_.push_back(entry.what);
    if (info_only_) return ok();
    auto done = read_l1();
    if (done) done = refcounts_.load(file_bytes_);
    if (done) done = take_metadata();
    if (!done || !writable_) return done;
    done = pad_file();
    allocator_.set_end(file_bytes_);
    if (!done) return done;
    const auto in_use = bitmaps_need_mark(*file_, header_);
    if (!in_use) return in_use.error();
    if ((header_.incompatible & incompatible_dirty) != 0) begin_rebuild();
    protected_ = *in_use || (header_.autoclear & ~(autoclear_bitmaps | autoclear_raw_data_file)) != 0;
    return ok();
}

Result<std::unique_ptr<Image>> Qcow2Image::open(std::unique_ptr<BlockFile> file, const OpenOptions& options) {
    auto size = file->size();
    if (!size) return size.error();
    auto header = read_header(*file, *size);
    if (!header) return header.error();
    const bool writable = options.writable && !options.info_only;
    // Clusters and tables would share the blocks of direct I/O.
    Status done;
    if (file->direct_alignment() > header->cluster_bytes()) done = file->go_buffered();
    if (!done) return done.error();
    const bool dirty = (header->incompatible & (incompatible_dirty | incompatible_corrupt)) == incompatible_dirty;
    // A device has no end that space could be taken from meanwhile.
    if (writable && dirty && file->fixed_size()) {
        done = rebuild_refcounts(*file);
        if (!done) return done.error();
        size = file->size();
        if (!size) return size.error();
        header = read_header(*file, *size);
        if (!header) return header.error();
    }
    std::unique_ptr<Qcow2Image> image(
        new Qcow2Image(std::move(file), std::move(*header), *size, writable, options.cache_bytes));
    image->info_only_ = options.info_only;
    image->describe();
    if (options.info_only) {
        done = describe_luks(*image->file_, image->header_, image->file_bytes_, image->info_.details);
        if (done) done = describe_bitmaps(*image->file_, image->header_, image->info_.details);
    } else {
        done = image->check_mode(options);
        if (done) done = image->make_cipher(options);
    }
    if (done) done = image->read_tables();
    if (done && !options.info_only) done = image->open_data_file(options);
    if (!done) return done.error();
    return std::unique_ptr<Image>(std::move(image));
}

// Refcounts that the header's tables need come first.
Status Qcow2Image::write_header() {
    const auto encoded = encode_header(header_);
    if (!encoded) return error(encoded.error().code, encoded.error().message);
    auto done = refcounts_.changed() ? refcounts_.make_durable() : ok();
    return done ? file_->write(0, *encoded) : done;
}

Status Qcow2Image::begin_writing() {
    if (!writable_) return error(Code::denied, "it is open for reading only");
    if (!protected_) return ok();
    auto done = mark_bitmaps_in_use(*file_, header_);
    if (!done) return done;
    header_.autoclear &= autoclear_bitmaps | autoclear_raw_data_file;
    done = write_header();
    if (done) done = file_->sync();
    if (done) protected_ = false;
    return done;
}

std::uint64_t Qcow2Image::allocated_bytes() const {
    if (data_file_) return data_file_->occupied_bytes();
    const auto end = writable_ ? allocator_.end() : align_up(file_bytes_, cluster_bytes()) >> header_.cluster_bits;
    const auto other = metadata_.count() + allocator_.reserved() + leased_.total();
    return end > other ? (end - other) << header_.cluster_bits : 0;
}

}  // namespace qcow2
}  // namespace dmu
