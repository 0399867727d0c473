// SPDX-License-Identifier: GPL-2.0-or-later
// Extents of a split disk that are made when they are first written to.
//
// The descriptor says which were made: one that is missing and was is an error, never
// zeros. The order, each step durable before the next:
//
//   1. the file and its directory entry; nothing, or a first sector of zeros: not made yet
//   2. its grain tables, then its header
//   3. the digit in the descriptor
//   4. the first place in it is given out
//
// A crash between 2 and 3 leaves an extent without grains; it is used as it is, and its
// digit is written with the next CID.
#include "formats/vmdk/new_extent.h"
#include "formats/vmdk/vmdk_image.h"

namespace dmu::vmdk {

Result<bool> VmdkImage::is_late(const Result<unsigned>& file, const ExtentLine& line) const {
    if (file) return is_blank_extent(*files_[*file], hosted_overhead(line.sectors, first_header().grain));
    if (file.error().code == Code::not_found) return true;
    return file.error();
}

// It is not made yet, and has its place in files().
Status VmdkImage::add_late(const ExtentLine& line, const Result<unsigned>& file) {
    auto piece = next_piece(line);
    piece.is_late = true;
    if (file) {
        piece.file = *file;
        files_[*file] = nullptr;
        others_.pop_back();
    } else {
        piece.file = static_cast<unsigned>(files_.size());
        files_.push_back(nullptr);
        names_.push_back(line.name);
        options_.neighbours->skip();
    }
    pieces_.push_back(std::move(piece));
    if (options_.writable) pools_++;
    return ok();
}

// A fresh file, or what an attempt before left of one.
Result<std::unique_ptr<BlockFile>> VmdkImage::open_blank(const std::string& name, std::uint64_t most) {
    auto file = options_.neighbours->create(name);
    if (file || file.error().code != Code::busy) return file;
    file = options_.neighbours->open(name, {true, true});
    if (!file) return file;
    const auto blank = is_blank_extent(**file, most);
    if (!blank) return blank.error();
    if (!*blank)
        return error(Code::busy, "its extent '" + name + "' is to be made, but there is a file of that name; move it");
    auto emptied = (*file)->truncate(0);
    if (!emptied) return emptied.error();
    return file;
}

Status VmdkImage::make_late(Piece& piece, const ExtentLine& line) {
    const auto& like = first_header();
    const auto name = names_of(line.name, descriptor_.encoding).front();
    auto file = open_blank(name, hosted_overhead(line.sectors, like.grain));
    if (!file) return file.error().in("extent of '" + file_->name() + "'");
    auto done = make_hosted(**file, line.sectors, like.grain, like.has_zeroed(), "");
    if (!done) return done;
    const auto header = read_sparse_header(**file, line.type);
    if (!header) return header.error();
    files_[piece.file] = file->get();
    auto setup = setup_of(line, piece.file);
    setup.writable = true;
    auto extent = SparseExtent::open(setup, *header);
    done = extent ? check_distinct(piece.file) : Status(extent.error());
    if (!done) {
        files_[piece.file] = nullptr;
        return done;
    }
    others_.push_back(std::move(*file));
    piece.sparse = std::move(*extent);
    piece.is_late = false;
    return ok();
}

// Before a place in it is given out.
Status VmdkImage::make_sure(Piece& piece) {
    const auto index = static_cast<std::size_t>(&piece - pieces_.data());
    if (index >= descriptor_.made.size() || !descriptor_.may_be_missing(index)) return ok();
    auto done = piece.is_late ? make_late(piece, descriptor_.extents[index]) : ok();
    return done ? mark_made() : done;
}

// The digits of all extents that are there.
Status VmdkImage::mark_made() {
    auto made = descriptor_.made;
    for (std::size_t i = 0; i < made.size(); i++) {
        if (made[i] != '0' || pieces_[i].is_late) continue;
        made[i] = '1';
        auto done = file_->write(descriptor_at_ + descriptor_.made_at + i, std::as_bytes(std::span(&made[i], 1)));
        if (!done) return done;
    }
    if (made == descriptor_.made) return ok();
    auto done = file_->sync();
    if (!done) return done;
    descriptor_.text.replace(descriptor_.made_at, made.size(), made);
    descriptor_.made = made;
    return ok();
}

}  // namespace dmu::vmdk
