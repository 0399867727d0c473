// SPDX-License-Identifier: GPL-2.0-or-later
#include "formats/raw/raw.h"

#include <algorithm>

namespace dmu {

namespace {

constexpr std::uint32_t raw_grain = 4096;  // a page: nothing is allocated, only misses are coalesced

Error wrong(const BlockFile& file, Code code, const std::string& what) {
    return {code, "raw image '" + file.name() + "': " + what};
}

class RawImage final : public Image {
public:
    RawImage(std::unique_ptr<BlockFile> file, std::uint64_t size, bool writable)
        : file_(std::move(file)), files_{file_.get()}, writable_(writable) {
        info_.format = "raw";
        info_.virtual_size = size;
        info_.grain = raw_grain;
    }

    const ImageInfo& info() const override { return info_; }
    const std::vector<BlockFile*>& files() const override { return files_; }

    Result<std::vector<Extent>> look_up(GuestRange range, LookAhead) override {
        if (range.length == 0 || range.start.bytes >= info_.virtual_size ||
            range.length > info_.virtual_size - range.start.bytes)
            return wrong(*file_, Code::invalid, "look-up past the end");
        Extent extent;
        extent.start = range.start;
        extent.length = info_.virtual_size - range.start.bytes;
        extent.kind = ExtentKind::data;
        extent.host = {range.start.bytes};
        extent.writable = writable_;
        return std::vector{extent};
    }

    Result<Place> reserve(GuestRange) override { return nothing_to_allocate(); }
    Status apply(const Change&) override { return nothing_to_allocate(); }
    Status commit(DataState) override { return ok(); }
    bool dirty() const override { return false; }
    Status close() override { return ok(); }
    std::uint64_t allocated_bytes() const override { return std::min(file_->occupied_bytes(), info_.virtual_size); }

private:
    Error nothing_to_allocate() const {
        return wrong(*file_, Code::invalid, "every block has its place; nothing is allocated");
    }

    std::unique_ptr<BlockFile> file_;
    std::vector<BlockFile*> files_;
    bool writable_;
    ImageInfo info_;
};

Result<std::unique_ptr<Image>> open_raw(std::unique_ptr<BlockFile> file, const OpenOptions& options) {
    if (!options.options.empty())
        return wrong(*file, Code::invalid, "there is no option '" + options.options.front().first + "'");
    if (options.writable && file->read_only()) return wrong(*file, Code::denied, "the file is open for reading only");
    const auto size = file->size();
    if (!size) return size.error();
    const auto usable = align_down(*size, sector_size);
    if (usable == 0) return wrong(*file, Code::invalid, "it holds not even one sector of 512 bytes");
    return std::unique_ptr<Image>(std::make_unique<RawImage>(std::move(file), usable, options.writable));
}

Status create_raw(BlockFile& file, const CreateOptions& options) {
    if (options.backing) return wrong(file, Code::unsupported, "raw images have no backing file");
    if (!options.options.empty())
        return wrong(file, Code::invalid, "there is no option '" + options.options.front().first + "'");
    if (options.cluster_size != 0) return wrong(file, Code::unsupported, "raw images have no clusters");
    if (options.virtual_size == 0) return wrong(file, Code::invalid, "a disk of 0 bytes can't be created");
    if (options.virtual_size > UINT64_MAX - sector_size) return wrong(file, Code::invalid, "the disk is too large");
    const auto wanted = align_up(options.virtual_size, sector_size);
    if (file.fixed_size()) {
        const auto size = file.size();
        if (!size) return size.error();
        if (*size < wanted) return wrong(file, Code::no_space, "the device is smaller than the disk");
        return ok();
    }
    auto sized = file.truncate(wanted);
    return sized ? file.sync() : sized;
}

// There is no metadata that could be wrong.
Result<CheckReport> check_raw(BlockFile& file, const CheckOptions&) {
    const auto size = file.size();
    if (!size) return size.error();
    CheckReport report;
    report.total = (*size + raw_grain - 1) / raw_grain;
    report.allocated = std::min(report.total, (file.occupied_bytes() + raw_grain - 1) / raw_grain);
    return report;
}

}  // namespace

const Format raw_format{"raw", open_raw, create_raw, check_raw};

}  // namespace dmu
