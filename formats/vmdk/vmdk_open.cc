// SPDX-License-Identifier: GPL-2.0-or-later
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>

#include "formats/vmdk/vmdk_image.h"

namespace dmu::vmdk {

namespace {

constexpr std::uint64_t smallest_cache = 64 << 10;

// The directory of a stream that make_stream() left follows right behind the descriptor.
bool is_stream_of_no_grains(const SparseHeader& header) {
    return header.is_compressed() && header.directory == header.overhead + 1;
}

}  // namespace

Error VmdkImage::error(Code code, const std::string& what) const {
    return {code, "vmdk image '" + file_->name() + "': " + what};
}

bool is_same_file(const BlockFile& a, const BlockFile& b) {
    struct stat one {
    }, other{};
    if (a.descriptor() < 0 || b.descriptor() < 0) return a.name() == b.name();
    return ::fstat(a.descriptor(), &one) == 0 && ::fstat(b.descriptor(), &other) == 0 && one.st_dev == other.st_dev &&
           one.st_ino == other.st_ino;
}

Result<SparseHeader> read_sparse_header(BlockFile& file, ExtentType type) {
    const auto size = file.size();
    if (!size) return size.error();
    std::vector<std::byte> raw(type == ExtentType::vmfs_sparse ? cowd_header_bytes : sector_size);
    auto done = file.read(0, raw);
    if (!done) return done.error();
    if (type == ExtentType::vmfs_sparse) return decode_cowd(raw, *size, file.name());
    if (type == ExtentType::se_sparse) {
        auto header = decode_se(raw, *size, file.name());
        if (!header) return header;
        done = file.read(header->volatile_header * sector_size, raw);
        if (done) done = decode_se_volatile(raw, file.name());
        if (!done) return done.error();
        return header;
    }
    auto header = decode_hosted(raw, *size, file.name());
    if (!header || header->directory != in_footer || header->is_wrapper()) return header;
    if (*size < 4 * sector_size)
        return Error{Code::corrupt, "vmdk extent '" + file.name() + "': its footer is missing"};
    done = file.read(*size - 2 * sector_size, raw);
    if (!done) return done.error();
    auto footer = decode_hosted(raw, *size, file.name());
    if (!footer) return Error{Code::corrupt, footer.error().in("footer").message};
    if (footer->directory == in_footer || footer->capacity != header->capacity || footer->grain != header->grain)
        return Error{Code::corrupt, "vmdk extent '" + file.name() + "': its footer contradicts its header"};
    return footer;
}

Result<std::unique_ptr<Image>> VmdkImage::open(std::unique_ptr<BlockFile> file, const OpenOptions& options) {
    std::unique_ptr<VmdkImage> image(new VmdkImage(std::move(file), options));
    if (!options.options.empty())
        return image->error(Code::invalid, "there is no option '" + options.options.front().first + "'");
    if (options.writable && image->file_->read_only())
        return image->error(Code::denied, "the file is open for reading only");
    auto done = image->load();
    if (!done) return done.error();
    return std::unique_ptr<Image>(std::move(image));
}

Status VmdkImage::load() {
    const auto size = file_->size();
    if (!size) return size.error();
    std::vector<std::byte> head(sector_size);
    auto done = file_->read(0, head);
    if (!done) return done;
    const std::string_view text(reinterpret_cast<const char*>(head.data()), head.size());
    if (text.starts_with("COWD"))
        return error(Code::invalid, "it is one extent of a disk; open the descriptor that names it");
    if (!is_hosted(head)) {
        if (!is_descriptor(text) || *size > max_descriptor_bytes)
            return error(Code::invalid,
                         "it is neither a descriptor nor a sparse extent: not a vmdk image; is the format in the "
                         "configuration right?");
        done = read_descriptor(0, *size, Kept::file);
        return done ? open_extents() : done;
    }
    const auto header = decode_hosted(head, *size, file_->name());
    if (!header) return header.error();
    if (header->descriptor == 0)
        return error(Code::invalid, "it is one extent of a disk; open the descriptor that names it");
    descriptor_room_ = header->descriptor_sectors * sector_size;
    done = read_descriptor(header->descriptor * sector_size, descriptor_room_,
                           header->is_wrapper() ? Kept::file : Kept::embedded);
    if (!done) return done;
    return header->is_wrapper() ? open_extents() : load_monolithic(*header);
}

Status VmdkImage::read_descriptor(std::uint64_t at, std::uint64_t bytes, Kept kept) {
    std::string text(bytes, '\0');
    auto done = file_->read(at, std::as_writable_bytes(std::span(text)));
    if (!done) return done;
    auto parsed = parse_descriptor(text, kept, file_->name());
    if (!parsed) return parsed.error();
    descriptor_ = std::move(*parsed);
    descriptor_at_ = at;
    std::uint64_t sectors = 0;
    for (const auto& line : descriptor_.extents) sectors += line.sectors;
    info_.virtual_size = sectors * sector_size;
    return describe();
}

Status VmdkImage::describe() {
    info_.format = "vmdk";
    info_.identity = hex8(descriptor_.cid);
    info_.backing.reset();
    if (descriptor_.parent_cid != no_parent)
        info_.backing = BackingReference{names_of(descriptor_.parent_name, descriptor_.encoding).front(), "vmdk",
                                         hex8(descriptor_.parent_cid)};
    info_.details = {{"create-type", descriptor_.create_type},
                     {"cid", std::uint64_t{descriptor_.cid}},
                     {"parent-cid", std::uint64_t{descriptor_.parent_cid}}};
    return ok();
}

// Nothing but this file is read for it: grains of extents in other files are not known.
void VmdkImage::describe_extent(std::size_t index, const ExtentLine& line) {
    const auto place = "extents/" + std::to_string(index) + "/";
    const auto say = [&](const char* key, auto value) { info_.details.push_back({place + key, value}); };
    say("virtual-size", line.sectors * sector_size);
    if (line.type != ExtentType::zero) {
        const std::filesystem::path name = names_of(line.name, descriptor_.encoding).front();
        say("filename", (std::filesystem::path(file_->name()).parent_path() / name).string());
    }
    say("format", std::string(word_of(line.type)));
}

Status VmdkImage::load_monolithic(const SparseHeader& header) {
    info_.virtual_size = header.capacity * sector_size;
    info_.cluster_size = static_cast<std::uint32_t>(header.grain_bytes());
    if (options_.info_only) {
        info_.grain = info_.cluster_size;
        info_.details.push_back({"extents/0/virtual-size", info_.virtual_size});
        info_.details.push_back({"extents/0/filename", file_->name()});
        info_.details.push_back({"extents/0/cluster-size", std::uint64_t{info_.cluster_size}});
        // As of qemu-img: it is none of a descriptor's lines.
        info_.details.push_back({"extents/0/format", std::string()});
        if (header.is_compressed()) info_.details.push_back({"extents/0/compressed", true});
        return ok();
    }
    ExtentLine line;
    line.sectors = header.capacity;
    names_ = {""};
    auto done = add_sparse(line, 0);
    if (done) done = check_writable();
    return done;
}

Status VmdkImage::open_extents() {
    if (options_.info_only) {
        for (std::size_t i = 0; i < descriptor_.extents.size(); i++) describe_extent(i, descriptor_.extents[i]);
        return ok();
    }
    names_ = {""};
    for (std::size_t i = 0; i < descriptor_.extents.size(); i++) {
        auto done = open_extent(descriptor_.extents[i], descriptor_.may_be_missing(i));
        if (!done) return done;
    }
    return check_writable();
}

Status VmdkImage::open_extent(const ExtentLine& line, bool may_be_missing) {
    if (line.type == ExtentType::zero || line.access == Access::none) {
        pieces_.push_back(next_piece(line));
        return ok();
    }
    const bool is_flat = line.type == ExtentType::flat || line.type == ExtentType::vmfs;
    const auto known = std::find(names_.begin() + 1, names_.end(), line.name);
    if (known != names_.end()) {
        if (!is_flat) return error(Code::corrupt, "two extents are in the file '" + line.name + "'");
        const auto file = static_cast<unsigned>(known - names_.begin());
        if (line.access == Access::read_write && options_.writable && files_[file]->read_only())
            return error(Code::unsupported, "the file '" + line.name + "' is both RW and RDONLY");
        return add_flat(line, file);
    }
    const auto file = open_file(line, options_.writable && line.access == Access::read_write);
    if (may_be_missing) {
        const auto late = is_late(file, line);
        if (!late) return late.error();
        if (*late) return add_late(line, file);
    }
    if (!file) return file.error();
    return is_flat ? add_flat(line, *file) : add_sparse(line, *file);
}

Result<unsigned> VmdkImage::open_file(const ExtentLine& line, bool writable) {
    if (options_.neighbours == nullptr)
        return error(Code::unsupported,
                     "its extent '" + line.name + "' is in another file, which can't be reached here");
    std::optional<Error> first;
    for (const auto& name : names_of(line.name, descriptor_.encoding)) {
        auto file = options_.neighbours->open(name, {writable, true});
        if (!file) {
            if (!first) first = file.error();
            if (file.error().code == Code::not_found) continue;
            break;
        }
        const auto index = static_cast<unsigned>(files_.size());
        others_.push_back(std::move(*file));
        files_.push_back(others_.back().get());
        names_.push_back(line.name);
        auto distinct = check_distinct(index);
        if (!distinct) return distinct.error();
        return index;
    }
    return first->in("extent of '" + file_->name() + "'");
}

Status VmdkImage::check_distinct(unsigned file) const {
    for (unsigned i = 0; i < file; i++)
        if (files_[i] != nullptr && is_same_file(*files_[i], *files_[file]))
            return error(Code::corrupt, "its extent '" + names_[file] + "' is the same file as " +
                                            (i == 0 ? "the descriptor" : "'" + names_[i] + "'"));
    return ok();
}

Status VmdkImage::add_flat(const ExtentLine& line, unsigned file) {
    const auto size = files_[file]->size();
    if (!size) return size.error();
    const auto sectors = *size / sector_size;
    if (line.at_sector > sectors || line.sectors > sectors - line.at_sector)
        return error(Code::corrupt, "its extent of " + std::to_string(line.sectors) + " sectors at sector " +
                                        std::to_string(line.at_sector) + " of '" + line.name +
                                        "' ends past the end of that file (" + std::to_string(*size) + " bytes)");
    auto piece = next_piece(line);
    piece.is_flat = true;
    piece.file = file;
    piece.host = line.at_sector * sector_size;
    for (const auto& other : pieces_)
        if (other.is_flat && other.file == file && piece.host < other.host + other.length &&
            other.host < piece.host + piece.length)
            return error(Code::corrupt, "two of its extents overlap in '" + line.name + "'");
    pieces_.push_back(std::move(piece));
    return ok();
}

VmdkImage::Piece VmdkImage::next_piece(const ExtentLine& line) const {
    Piece piece;
    piece.start = pieces_.empty() ? 0 : pieces_.back().end();
    piece.length = line.sectors * sector_size;
    piece.access = line.access;
    return piece;
}

SparseExtent::Setup VmdkImage::setup_of(const ExtentLine& line, unsigned file) const {
    SparseExtent::Setup setup{files_[file], file, line.sectors * sector_size};
    setup.has_parent = descriptor_.parent_cid != no_parent;
    setup.cache_bytes =
        std::max(options_.cache_bytes / std::max<std::uint64_t>(descriptor_.extents.size(), 1), smallest_cache);
    return setup;
}

Status VmdkImage::add_sparse(const ExtentLine& line, unsigned file) {
    auto& handle = *files_[file];
    const auto header = read_sparse_header(handle, line.type);
    if (!header) return header.error();
    if (header->is_wrapper()) return error(Code::corrupt, "its extent '" + line.name + "' is a descriptor");
    if (header->capacity < line.sectors)
        return error(Code::corrupt, "its extent '" + line.name + "' has " + std::to_string(header->capacity) +
                                        " sectors; the descriptor says " + std::to_string(line.sectors));
    bool is_written = options_.writable && line.access == Access::read_write;
    const bool is_fresh_stream = is_written && file == 0 && header->has_markers() && is_stream_of_no_grains(*header);
    if (is_written && !is_fresh_stream &&
        (header->is_compressed() || header->kind == SparseKind::se || header->version == 3))
        return error(Code::unsupported,
                     std::string(header->is_compressed()          ? "compressed (stream-optimized) disks"
                                 : header->kind == SparseKind::se ? "seSparse disks"
                                                                  : "disks with changed-block tracking") +
                         " can be opened for reading only; convert it, or put an overlay on it");
    if (is_written && handle.fixed_size())
        return error(Code::unsupported,
                     "it grows, a block device does not; open it for reading only, or copy it to a file");
    auto setup = setup_of(line, file);
    is_written = is_written && !is_fresh_stream;
    setup.writable = is_written;
    auto extent = SparseExtent::open(setup, *header);
    if (!extent) return extent.error();
    if (is_fresh_stream) {
        if (!(*extent)->is_empty()) return error(Code::unsupported, "only a stream without grains can be written to");
        auto start = *header;
        start.directory = in_footer;
        stream_ = std::make_unique<StreamWriter>(handle, start);
    }
    auto piece = next_piece(line);
    piece.sparse = std::move(*extent);
    info_.cluster_size = std::max(info_.cluster_size, static_cast<std::uint32_t>(header->grain_bytes()));
    pieces_.push_back(std::move(piece));
    if (is_written) pools_++;
    return ok();
}

// Places are given out in grains of one size that no extent's end cuts.
Status VmdkImage::check_writable() {
    info_.grain = std::max<std::uint32_t>(info_.cluster_size, sector_size);
    info_.can_allocate = pools_ != 0;
    if (!options_.writable) return ok();
    if (descriptor_.tracks_changes)
        return error(Code::unsupported,
                     "its changes are tracked (changeTrackPath); writing would make incremental backups wrong");
    info_.only_compressed = stream_ != nullptr;
    if (stream_) return ok();
    info_.discards_to_zero = pools_ != 0;
    bool has_grain = false;
    for (const auto& piece : pieces_) {
        // One that is late will be like the first.
        const auto* extent = piece.is_late ? pieces_.front().sparse.get() : piece.sparse.get();
        info_.discards_to_zero = info_.discards_to_zero && piece.takes_places() && extent->discards_to_zero();
        if (!piece.takes_places()) continue;
        if (!has_grain) info_.grain = static_cast<std::uint32_t>(extent->grain_bytes());
        has_grain = true;
        const bool is_last = &piece == &pieces_.back();
        if (extent->grain_bytes() != info_.grain || piece.start % info_.grain != 0 ||
            (!is_last && piece.length % info_.grain != 0))
            return error(Code::unsupported,
                         "its extents have grains of different sizes, or ends within a grain; such a disk can be "
                         "opened for reading only; convert it");
    }
    return ok();
}

}  // namespace dmu::vmdk
