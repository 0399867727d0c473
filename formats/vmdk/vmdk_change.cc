// SPDX-License-Identifier: GPL-2.0-or-later
// Changes of the whole disk: its size, its parent, its compressed content.
#include <algorithm>

#include "formats/vmdk/grow.h"
#include "formats/vmdk/vmdk_image.h"

namespace dmu::vmdk {

Status VmdkImage::write_compressed(GuestOffset start, std::span<const std::byte> from) {
    if (!options_.writable) return error(Code::denied, "it is open for reading only");
    if (!stream_)
        return error(Code::unsupported, "only a streamOptimized disk that was just created is written compressed");
    auto done = begin_writing();
    if (!done) return done;
    is_streamed_ = true;
    return stream_->write_grain(start.bytes, from);
}

// ---------------------------------------------------------- descriptor ---

// Of a descriptor that is a file, a longer text goes over the old one's end first.
Status VmdkImage::write_descriptor(const std::string& text) {
    if (descriptor_room_ != 0 && text.size() > descriptor_room_)
        return error(Code::no_space, "its descriptor would have " + std::to_string(text.size()) +
                                         " bytes; there is room for " + std::to_string(descriptor_room_));
    auto parsed = parse_descriptor(text, descriptor_.extents.empty() ? Kept::embedded : Kept::file, file_->name());
    if (!parsed) return parsed.error();
    auto padded = text;
    padded.resize(std::max<std::size_t>(descriptor_room_, std::max(text.size(), descriptor_.text.size())));
    auto done = file_->write(descriptor_at_, std::as_bytes(std::span(padded)));
    if (done && descriptor_room_ == 0) done = file_->truncate(text.size());
    if (done) done = file_->sync();
    if (!done) return done;
    descriptor_ = std::move(*parsed);
    return describe();
}

Status VmdkImage::set_backing(const std::optional<BackingReference>& backing) {
    if (!options_.writable) return error(Code::denied, "it is open for reading only");
    if (!backing) return write_descriptor(with_parent(descriptor_, std::nullopt));
    const auto parent = parent_of(*backing, file_->name());
    if (!parent) return parent.error();
    return write_descriptor(with_parent(descriptor_, *parent));
}

// ---------------------------------------------------------------- size ---

// The bytes of the last grain past the disk's end: nobody looked at them.
Status VmdkImage::clear_last_grain() {
    const auto grain = info_.grain, past = static_cast<std::uint32_t>(info_.virtual_size % grain);
    if (past == 0) return ok();
    const auto extents = look_up({{info_.virtual_size - sector_size}, sector_size});
    if (!extents) return extents.error();
    const auto& last = extents->back();
    if (last.kind != ExtentKind::data) return ok();
    const std::vector<std::byte> zeros(grain - past);
    return files_[last.file]->write(last.host.bytes + last.length, zeros);
}

Status VmdkImage::grow_sparse(std::uint64_t sectors) {
    auto& piece = pieces_.front();
    auto& file = piece.sparse->file();
    if (piece.sparse->header().kind != SparseKind::hosted)
        return error(Code::unsupported, "a vmfsSparse disk can't be resized; convert it");
    if (sectors >= most_sectors)
        return error(Code::invalid, "one sparse extent holds less than 2 TiB; convert it to twoGbMaxExtentSparse");
    auto done = clear_last_grain();
    if (done) done = piece.sparse->close();
    if (done) done = grow_hosted(file, piece.sparse->header(), sectors);
    return done;
}

// Of a disk of one extent: the extent's file first, then the line that names it.
Status VmdkImage::resize(std::uint64_t bytes) {
    if (!options_.writable) return error(Code::denied, "it is open for reading only");
    if (bytes > max_disk_sectors * sector_size) return error(Code::invalid, "the disk would be too large");
    const auto size = align_up(bytes, sector_size);
    if (size == info_.virtual_size) return ok();
    if (size < info_.virtual_size) return error(Code::unsupported, "a vmdk disk can't be made smaller; convert it");
    if (pieces_.size() != 1 || pieces_.front().access != Access::read_write || stream_ ||
        (!pieces_.front().sparse && !pieces_.front().is_flat))
        return error(Code::unsupported, "only a disk of one extent can be resized; convert it");
    auto done = begin_writing();
    if (done) done = commit(DataState::written);
    if (!done) return done;
    auto& piece = pieces_.front();
    const auto index =
        piece.sparse
            ? static_cast<unsigned>(std::find(files_.begin(), files_.end(), &piece.sparse->file()) - files_.begin())
            : piece.file;
    if (piece.is_flat) {
        const auto end = files_[index]->size();
        if (!end) return end.error();
        if (files_[index]->fixed_size() ? *end < piece.host + size
                                        : *end / sector_size * sector_size != piece.host + piece.length)
            return error(Code::unsupported, "its flat extent does not end where its file ends");
        if (!files_[index]->fixed_size()) done = files_[index]->truncate(piece.host + size);
        if (done) done = files_[index]->sync();
    } else {
        done = grow_sparse(size / sector_size);
    }
    if (done) done = write_descriptor(with_sectors(descriptor_, size / sector_size));
    if (!done) return done;
    ExtentLine line;
    if (!descriptor_.extents.empty()) line = descriptor_.extents.front();
    line.sectors = size / sector_size;
    const bool was_flat = piece.is_flat;
    pieces_.clear();
    pools_ = 0;
    done = was_flat ? add_flat(line, index) : add_sparse(line, index);
    if (done) done = check_writable();
    info_.virtual_size = size;
    return done;
}

}  // namespace dmu::vmdk
