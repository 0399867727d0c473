// SPDX-License-Identifier: GPL-2.0-or-later
#include <algorithm>
#include <array>

#include "formats/core/endian.h"
#include "formats/core/units.h"
#include "formats/crypto/sector_cipher.h"
#include "formats/qcow/check.h"
#include "formats/qcow/create.h"
#include "formats/qcow/qcow.h"
#include "formats/qcow/qcow_image.h"

namespace dmu {

const Format qcow_format{"qcow", qcow::QcowImage::open, qcow::create_image, qcow::check_image, qcow::recognises};

namespace qcow {

QcowImage::QcowImage(std::unique_ptr<BlockFile> file, const Header& header, std::uint64_t file_bytes,
                     const OpenOptions& options)
    : file_(std::move(file)),
      files_{file_.get()},
      header_(header),
      file_bytes_(file_bytes),
      writable_(options.writable),
      tail_(*file_, static_cast<std::uint32_t>(header.cluster_bytes()), align_up(file_bytes, header.cluster_bytes())),
      cache_(std::max<std::uint64_t>(options.cache_bytes / header.l2_bytes(), 4)) {
    info_.format = "qcow";
    info_.virtual_size = align_down(header.size, sector_size);
    info_.grain = static_cast<std::uint32_t>(header.cluster_bytes());
    info_.can_allocate = writable_;
    info_.encrypted = header.encrypted;
    info_.cluster_size = info_.grain;
}

Result<std::unique_ptr<Image>> QcowImage::open(std::unique_ptr<BlockFile> file, const OpenOptions& options) {
    const auto refuse = [&](Code code, const std::string& what) {
        return Error{code, "qcow image '" + file->name() + "': " + what};
    };
    if (options.writable && file->read_only()) return refuse(Code::denied, "the file is open for reading only");
    if (options.writable && file->fixed_size())
        return refuse(Code::unsupported,
                      "it lies on a block device, where it can't grow; use it read-only or copy it to a file");
    const auto size = file->size();
    if (!size) return size.error();
    std::array<std::byte, header_bytes + xen_bytes> raw{};
    auto done = file->read(0, raw);
    if (!done) return done.error();
    const auto header = decode_header(raw, *size, file->name());
    if (!header) return header.error();
    if (options.writable && header->xen)
        return refuse(
            Code::unsupported,
            "it has the extended header of Xen's old blktap, which is only read; convert it to a plain qcow image");

    // Clusters and tables would share the blocks of direct I/O.
    if (file->direct_alignment() > header->cluster_bytes()) done = file->go_buffered();
    std::unique_ptr<QcowImage> image(new QcowImage(std::move(file), *header, *size, options));
    if (done) done = image->take_options(options);
    if (done) done = image->read_name();
    if (done && options.info_only) return std::unique_ptr<Image>(std::move(image));
    if (done) done = image->read_l1();
    if (done) done = image->take_tables();
    if (done && options.writable) done = image->pad_file();
    if (!done) return done.error();
    return std::unique_ptr<Image>(std::move(image));
}

Status QcowImage::take_options(const OpenOptions& options) {
    std::string key_file;
    for (const auto& [key, value] : options.options) {
        if (key != "key-file") return error(Code::invalid, "there is no option '" + key + "'");
        if (!header_.encrypted) return error(Code::invalid, "it is not encrypted; leave the option 'key-file' out");
        key_file = value;
    }
    if (!header_.encrypted || options.info_only) return ok();
    if (key_file.empty())
        return error(Code::denied,
                     "it is encrypted; name the file that holds its key: 'qcow;key-file=FILE:" + file_->name() + "'");
    const auto password = crypto::read_key_file(key_file);
    if (!password) return password.error().in("image '" + file_->name() + "'");
    auto cipher = crypto::make_legacy_cipher(*password);
    if (!cipher) return cipher.error();
    cipher_ = std::move(*cipher);
    return ok();
}

Status QcowImage::read_name() {
    if (header_.name_offset == 0) return ok();
    std::string name(header_.name_bytes, '\0');
    auto done = file_->read(header_.name_offset, std::as_writable_bytes(std::span(name)));
    if (!done) return done;
    if (name.find('\0') != std::string::npos) return corrupt("the name of its backing file holds a NUL");
    info_.backing = BackingReference{name, ""};
    return ok();
}

Status QcowImage::read_l1() {
    std::vector<std::byte> raw(std::min<std::uint64_t>(header_.l1_entries() * 8, 1 << 20));
    l1_.reserve(header_.l1_entries());
    scanned_.resize(header_.l1_entries());
    while (l1_.size() < header_.l1_entries()) {
        const auto count = std::min<std::uint64_t>(raw.size() / 8, header_.l1_entries() - l1_.size());
        auto done = file_->read(header_.l1_offset + l1_.size() * 8, std::span(raw).first(count * 8));
        if (!done) return done;
        for (std::uint64_t i = 0; i < count; i++) l1_.push_back(load_l1(header_, raw, i * 8));
    }
    return ok();
}

Status QcowImage::take_tables() {
    for (std::uint64_t i = 0; i < l1_.size(); i++) {
        const auto offset = l1_[i];
        if (offset == 0) continue;
        const auto who = "L2 table " + std::to_string(i) + " at byte " + std::to_string(offset);
        if (offset % cluster_bytes() != 0) return corrupt(who + " is not aligned to clusters");
        if (offset > file_bytes_ || header_.l2_bytes() > file_bytes_ - offset)
            return corrupt(who + " ends past the end of the file");
        if (is_over_fixed(offset, offset + header_.l2_bytes()))
            return corrupt(who + " lies over the header, the backing file's name or the L1 table");
        table_offsets_.push_back(offset);
    }
    std::sort(table_offsets_.begin(), table_offsets_.end());
    for (std::size_t i = 1; i < table_offsets_.size(); i++)
        if (table_offsets_[i] - table_offsets_[i - 1] < header_.l2_bytes())
            return corrupt("two L2 tables overlap at byte " + std::to_string(table_offsets_[i]));
    return ok();
}

// A cluster that the file's end cuts (old writers did that) becomes whole.
Status QcowImage::pad_file() {
    if (file_bytes_ == tail_.next()) return ok();
    auto padded = file_->allocate(file_bytes_, tail_.next() - file_bytes_);
    if (!padded) return padded.error();
    return ok();
}

}  // namespace qcow
}  // namespace dmu
