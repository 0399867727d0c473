// SPDX-License-Identifier: GPL-2.0-or-later
#include "formats/vmdk/check.h"

#include <algorithm>

#include "formats/vmdk/descriptor.h"
#include "formats/vmdk/extent_check.h"
#include "formats/vmdk/new_extent.h"
#include "formats/vmdk/vmdk_image.h"

namespace dmu::vmdk {

namespace {

class Checker {
public:
    Checker(BlockFile& file, const CheckOptions& options) : file_(file), options_(options) {}

    Result<CheckReport> run();

private:
    Error error(Code code, const std::string& what) const {
        return {code, "vmdk image '" + file_.name() + "': " + what};
    }
    void corrupt(const Error& error);
    Result<Descriptor> read_descriptor(std::uint64_t at, std::uint64_t bytes, Kept kept);
    Status check_extent(const ExtentLine& line, const std::string& encoding, bool may_be_missing);
    Status check_sparse(BlockFile& file, const ExtentLine& line);
    Status check_all();

    BlockFile& file_;
    const CheckOptions options_;
    CheckReport report_;
};

void Checker::corrupt(const Error& error) {
    report_.corruptions++;
    report_.messages.push_back(error.message);
}

Result<Descriptor> Checker::read_descriptor(std::uint64_t at, std::uint64_t bytes, Kept kept) {
    std::string text(std::min<std::uint64_t>(bytes, max_descriptor_bytes), '\0');
    auto done = file_.read(at, std::as_writable_bytes(std::span(text)));
    if (!done) return done.error();
    return parse_descriptor(text, kept, file_.name());
}

Status Checker::check_sparse(BlockFile& file, const ExtentLine& line) {
    const auto size = file.size();
    if (!size) return size.error();
    const auto header = read_sparse_header(file, line.type);
    if (!header) return header.error();
    if (header->capacity < line.sectors)
        return error(Code::corrupt, "its extent '" + line.name + "' is smaller than its descriptor says");
    const bool is_fixed = header->is_compressed() || header->kind == SparseKind::se;
    const auto repair = is_fixed || line.access != Access::read_write ? Repair::none : options_.repair;
    return ExtentChecker(file, *header, *size, line.sectors, repair, report_).run();
}

Status Checker::check_extent(const ExtentLine& line, const std::string& encoding, bool may_be_missing) {
    if (line.type == ExtentType::zero || line.access == Access::none) return ok();
    if (options_.neighbours == nullptr)
        return error(Code::unsupported, "its extent '" + line.name + "' can't be reached here");
    const bool writable = options_.repair != Repair::none && line.access == Access::read_write;
    Result<std::unique_ptr<BlockFile>> file = Error{Code::not_found, ""};
    for (const auto& name : names_of(line.name, encoding)) {
        auto opened = options_.neighbours->open(name, {writable, true});
        const bool is_missing = !opened && opened.error().code == Code::not_found;
        if (opened || file.error().message.empty()) file = std::move(opened);
        if (!is_missing) break;
    }
    if (!file && may_be_missing && file.error().code == Code::not_found) return ok();
    if (!file) return file.error();
    if (may_be_missing) {
        const auto blank = is_blank_extent(**file, UINT64_MAX);
        if (!blank || *blank) return blank ? ok() : Status(blank.error());
    }
    if (line.type != ExtentType::flat && line.type != ExtentType::vmfs) return check_sparse(**file, line);
    const auto size = (*file)->size();
    if (!size) return size.error();
    if (line.at_sector + line.sectors > *size / sector_size)
        return error(Code::corrupt, "its extent '" + line.name + "' ends past the end of that file");
    return ok();
}

Status Checker::check_all() {
    const auto size = file_.size();
    if (!size) return size.error();
    std::vector<std::byte> head(sector_size);
    auto done = file_.read(0, head);
    if (!done) return done;
    const std::string_view text(reinterpret_cast<const char*>(head.data()), head.size());
    Result<Descriptor> descriptor = error(Code::invalid, "it is neither a descriptor nor a sparse extent with one");
    if (is_hosted(head)) {
        const auto header = decode_hosted(head, *size, file_.name());
        if (!header) return header.error();
        if (header->descriptor == 0) return error(Code::invalid, "it is one extent of a disk; check its descriptor");
        const auto kept = header->is_wrapper() ? Kept::file : Kept::embedded;
        descriptor = read_descriptor(header->descriptor * sector_size, header->descriptor_sectors * sector_size, kept);
        if (descriptor && !header->is_wrapper()) {
            ExtentLine line;
            line.sectors = header->capacity;
            return check_sparse(file_, line);
        }
    } else if (is_descriptor(text) && *size <= max_descriptor_bytes) {
        descriptor = read_descriptor(0, *size, Kept::file);
    }
    if (!descriptor) return descriptor.error();
    for (std::size_t i = 0; i < descriptor->extents.size(); i++) {
        auto checked = check_extent(descriptor->extents[i], descriptor->encoding, descriptor->may_be_missing(i));
        if (!checked && checked.error().code != Code::corrupt) return checked;
        if (!checked) corrupt(checked.error());
    }
    return ok();
}

Result<CheckReport> Checker::run() {
    auto done = check_all();
    if (!done && done.error().code != Code::corrupt) return done.error();
    if (!done) corrupt(done.error());
    return std::move(report_);
}

}  // namespace

Result<CheckReport> check_image(BlockFile& file, const CheckOptions& options) {
    return Checker(file, options).run();
}

}  // namespace dmu::vmdk
