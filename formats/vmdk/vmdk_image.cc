// SPDX-License-Identifier: GPL-2.0-or-later
#include "formats/vmdk/vmdk_image.h"

#include <algorithm>

#include "formats/vmdk/extent_list.h"

namespace dmu::vmdk {

VmdkImage::Piece* VmdkImage::find(std::uint64_t at) {
    auto after = std::upper_bound(pieces_.begin(), pieces_.end(), at,
                                  [](std::uint64_t byte, const Piece& piece) { return byte < piece.start; });
    if (after == pieces_.begin() || at >= std::prev(after)->end()) return nullptr;
    return &*std::prev(after);
}

Result<std::vector<Extent>> VmdkImage::look_up(GuestRange range, LookAhead ahead) {
    if (range.length == 0 || range.start.bytes >= info_.virtual_size ||
        range.length > info_.virtual_size - range.start.bytes)
        return error(Code::invalid, "look-up past the end of the disk");
    if (is_streamed_) return error(Code::invalid, "what is streamed to it can be read when it is opened again");
    std::vector<Extent> out;
    for (auto at = range.start.bytes; at < range.end();) {
        auto* piece = find(at);
        if (piece == nullptr) return error(Code::invalid, "only its header was opened");
        if (piece->access == Access::none)
            return error(Code::denied, "guest byte " + std::to_string(at) + " is in an extent of no access");
        const bool may_write = is_marked_ && piece->access == Access::read_write;
        const auto end = std::min(range.end(), piece->end());
        if (piece->sparse) {
            std::vector<Extent> part;
            auto done = piece->sparse->look_up({{at - piece->start}, end - at}, ahead, may_write, part);
            if (!done) return done.error();
            for (auto extent : part) {
                extent.start.bytes += piece->start;
                extent.leasable = pools_ == 1 && piece->access == Access::read_write;
                append_extent(out, extent);
            }
        } else {
            const auto stop = ahead == LookAhead::none ? end : piece->end();
            Extent extent{{at}, stop - at, ExtentKind::zero, 0, {}, false};
            extent.leasable = false;
            if (piece->is_late) extent.kind = ExtentKind::unallocated;
            if (piece->is_flat) {
                extent.kind = ExtentKind::data;
                extent.file = piece->file;
                extent.host = {piece->host + (at - piece->start)};
                extent.writable = may_write;
            }
            append_extent(out, extent);
        }
        at = out.back().start.bytes + out.back().length;
    }
    return out;
}

Status VmdkImage::read_compressed(GuestOffset start, std::span<std::byte> into) {
    auto at = start.bytes;
    while (!into.empty()) {
        auto* piece = find(at);
        if (piece == nullptr || !piece->sparse || !piece->sparse->header().is_compressed())
            return error(Code::invalid, "there is nothing compressed at guest byte " + std::to_string(at));
        const auto bytes = std::min<std::uint64_t>(into.size(), piece->end() - at);
        auto done = piece->sparse->read_compressed(at - piece->start, into.first(bytes));
        if (!done) return done;
        into = into.subspan(bytes);
        at += bytes;
    }
    return ok();
}

// ------------------------------------------------------------- writing ---

// The digits in place: as many as there were, so that nothing else moves.
Status VmdkImage::begin_writing() {
    if (!options_.writable) return error(Code::denied, "it is open for reading only");
    if (is_marked_) return ok();
    const auto digits = next_cid(descriptor_);
    auto done = mark_made();
    if (done) done = file_->write(descriptor_at_ + descriptor_.cid_at, std::as_bytes(std::span(digits)));
    if (done) done = file_->sync();
    if (!done) return done;
    descriptor_.text.replace(descriptor_.cid_at, digits.size(), digits);
    descriptor_.cid = static_cast<std::uint32_t>(std::stoul(digits, nullptr, 16));
    is_marked_ = true;
    return describe();
}

Status VmdkImage::check_may_write() const {
    if (!options_.writable) return error(Code::denied, "it is open for reading only");
    if (!is_marked_) return error(Code::denied, "nothing may be written before its CID has changed");
    return ok();
}

Result<Place> VmdkImage::reserve(GuestRange range) {
    auto may = check_may_write();
    if (!may) return may.error();
    const auto disk_end = align_up(info_.virtual_size, info_.grain);
    if (range.length == 0 || range.start.bytes >= info_.virtual_size || range.length > disk_end - range.start.bytes)
        return error(Code::invalid, "space asked for past the end of the disk");
    auto* piece = find(range.start.bytes);
    if (piece == nullptr || (!piece->takes_places() && !(piece->is_flat && piece->access == Access::read_write)))
        return error(Code::denied,
                     "guest byte " + std::to_string(range.start.bytes) + " is in an extent that can't be written to");
    if (piece->is_flat) return error(Code::invalid, "every block of a flat extent has its place");
    auto made = make_sure(*piece);
    if (!made) return made.error();
    const bool is_last = piece == &pieces_.back();
    const auto end = is_last ? range.end() : std::min(range.end(), piece->end());
    auto place = piece->sparse->reserve({{range.start.bytes - piece->start}, end - range.start.bytes});
    if (place) place->start.bytes += piece->start;
    return place;
}

// The extent that takes first writes in a file; nullptr: none does.
SparseExtent* VmdkImage::extent_of(unsigned file) {
    for (auto& piece : pieces_)
        if (piece.sparse && piece.access == Access::read_write && piece.sparse->file_index() == file)
            return piece.sparse.get();
    return nullptr;
}

// look_up() says leasable only where there is but one extent to lease of.
Result<Place> VmdkImage::reserve_any(std::uint64_t bytes) {
    auto may = check_may_write();
    if (!may) return may.error();
    if (pools_ != 1) return error(Code::unsupported, "each of its extents takes the writes to its own part");
    for (auto& piece : pieces_)
        if (piece.sparse && piece.access == Access::read_write) return piece.sparse->reserve_any(bytes);
    return error(Code::unsupported, "nothing is allocated in it");
}

Status VmdkImage::give_back(const Place& unused) {
    if (!options_.writable) return error(Code::denied, "it is open for reading only");
    auto* extent = extent_of(unused.file);
    if (extent == nullptr) return error(Code::invalid, "what is given back lies in no extent that grows");
    return extent->give_back(unused);
}

Status VmdkImage::apply(const Change& change) {
    auto may = check_may_write();
    if (!may) return may;
    if (change.kind == ChangeKind::lost) {
        auto* extent = extent_of(change.file);
        return extent == nullptr ? ok() : extent->apply(change);
    }
    if (change.length == 0 || change.length > UINT64_MAX - change.start.bytes)
        return error(Code::invalid, "a change of no bytes, or of too many");
    for (std::uint64_t done = 0; done < change.length;) {
        auto part = change;
        part.start.bytes += done;
        part.host.bytes += done;
        auto* piece = find(part.start.bytes);
        if (piece == nullptr) return error(Code::invalid, "a change past the end of the disk");
        const bool is_last = piece == &pieces_.back();
        part.length = change.length - done;
        if (!is_last) part.length = std::min(part.length, piece->end() - part.start.bytes);
        done += part.length;
        const bool is_zero = !piece->sparse && !piece->is_flat && change.kind == ChangeKind::zero;
        if (is_zero && piece->access != Access::none && !(piece->is_late && info_.backing)) continue;
        auto made = piece->takes_places() ? make_sure(*piece) : ok();
        if (!made) return made;
        if (!piece->sparse || piece->access != Access::read_write)
            return error(Code::invalid,
                         "a change at guest byte " + std::to_string(part.start.bytes) + ", where nothing is allocated");
        part.start.bytes -= piece->start;
        auto applied = piece->sparse->apply(part);
        if (!applied) return applied;
    }
    return ok();
}

bool VmdkImage::dirty() const {
    return std::any_of(pieces_.begin(), pieces_.end(),
                       [](const Piece& piece) { return piece.sparse && piece.sparse->dirty(); });
}

// Each extent's metadata points into its own file only: they are committed one by one.
Status VmdkImage::commit(DataState data) {
    Status first = ok();
    for (auto& piece : pieces_) {
        Status done = ok();
        if (piece.sparse)
            done = piece.sparse->commit(data);
        else if (piece.is_flat && data == DataState::written && is_marked_ && !files_[piece.file]->read_only())
            done = files_[piece.file]->sync();
        if (!done && first) first = done;
    }
    return first;
}

void VmdkImage::recycle() {
    for (auto& piece : pieces_)
        if (piece.sparse) piece.sparse->recycle();
}

bool VmdkImage::wants_recycling() const {
    return std::any_of(pieces_.begin(), pieces_.end(),
                       [](const Piece& piece) { return piece.sparse && piece.sparse->wants_recycling(); });
}

Status VmdkImage::close() {
    if (!options_.writable) return ok();
    auto first = commit(DataState::written);
    if (first && is_streamed_) first = stream_->finish();
    for (auto& piece : pieces_) {
        if (!piece.sparse) continue;
        auto done = piece.sparse->close();
        if (!done && first) first = done;
    }
    return first;
}

std::uint64_t VmdkImage::allocated_bytes() const {
    std::uint64_t bytes = 0;
    for (const auto& piece : pieces_) {
        if (piece.sparse) bytes += piece.sparse->allocated_bytes();
        if (piece.is_flat) bytes += std::min(piece.length, files_[piece.file]->occupied_bytes());
    }
    return bytes;
}

}  // namespace dmu::vmdk
