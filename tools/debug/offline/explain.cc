// SPDX-License-Identifier: GPL-2.0-or-later
// The device as a whole: partitions, and whose sectors a range is.
#include "tools/debug/explain.h"

#include <blkid/blkid.h>
#include <fcntl.h>

#include "tools/debug/offline/explain_parts.h"

namespace dmu::debug {

namespace {

constexpr std::uint64_t gpt_entries = 32;  // sectors; 128 entries of 128 bytes

struct Whole {
    std::uint64_t start = 0, end = 0;  // sectors
    std::string name;                  // "partition 1: ", "" of a whole device
    std::unique_ptr<Part> part;
};

struct ProbeEnd {
    void operator()(::blkid_probe probe) const { ::blkid_free_probe(probe); }
};
using Probe = std::unique_ptr<std::remove_pointer_t<::blkid_probe>, ProbeEnd>;

class DeviceExplainer final : public Explainer {
public:
    explicit DeviceExplainer(ImageFile file) : file_(std::move(file)) { refresh(); }

    void refresh() override {
        // What went to the device below the page cache is not to be hidden by it.
        ::posix_fadvise(file_.descriptor(), 0, 0, POSIX_FADV_DONTNEED);
        wholes_.clear();
        table_ = Ranges<std::string>();
        if (!read_partitions()) add_whole(0, file_.sectors(), "");
    }

    std::vector<Explanation> explain(std::uint64_t sector, std::uint64_t sectors,
                                     std::span<const std::byte> data) override {
        std::vector<Explanation> found;
        const auto end = sector + sectors;
        for (auto at = sector; at < end;) {
            auto next = end;
            const auto bytes = [&](std::uint64_t to) {
                return data.empty() ? data : data.subspan((at - sector) * sector_bytes, (to - at) * sector_bytes);
            };
            if (auto* whole = whole_at(at, next)) {
                next = std::min(next, end);
                for (auto& one : inside(*whole, at, next, bytes(next))) found.push_back(std::move(one));
            } else {
                const auto* range = table_.find(at, next);
                for (const auto& one : wholes_)
                    if (one.start > at) next = std::min(next, one.start);
                next = std::min(next, end);
                found.push_back({at, next - at, range != nullptr ? range->value : "unused"});
            }
            at = next;
        }
        return found;
    }

private:
    void add_whole(std::uint64_t start, std::uint64_t sectors, const std::string& name) {
        Whole whole{start, start + sectors, name, nullptr};
        whole.part = open_ext(file_.path(), start * sector_bytes, sectors * sector_bytes);
        if (!whole.part) whole.part = open_xfs(file_, start * sector_bytes, sectors * sector_bytes);
        wholes_.push_back(std::move(whole));
    }

    bool read_partitions() {
        const Probe probe(::blkid_new_probe_from_filename(file_.path().c_str()));
        if (!probe) return false;
        ::blkid_probe_enable_partitions(probe.get(), 1);
        auto* list = ::blkid_probe_get_partitions(probe.get());
        auto* table = list != nullptr ? ::blkid_partlist_get_table(list) : nullptr;
        if (table == nullptr || ::blkid_partlist_numof_partitions(list) == 0) return false;
        const std::string type = ::blkid_parttable_get_type(table);
        if (type == "gpt")
            add_gpt();
        else
            table_.add(0, 1, type == "dos" ? "partition table (MBR)" : "partition table (" + type + ")");
        for (int i = 0; i < ::blkid_partlist_numof_partitions(list); i++) {
            auto* partition = ::blkid_partlist_get_partition(list, i);
            if (::blkid_partition_is_extended(partition) != 0) continue;
            const auto start = static_cast<std::uint64_t>(::blkid_partition_get_start(partition));
            const auto sectors = static_cast<std::uint64_t>(::blkid_partition_get_size(partition));
            if (start >= file_.sectors() || sectors > file_.sectors() - start) continue;
            add_whole(start, sectors, "partition " + std::to_string(::blkid_partition_get_partno(partition)) + ": ");
        }
        return true;
    }

    void add_gpt() {
        table_.add(0, 1, "protective MBR");
        table_.add(1, 1, "GPT header");
        table_.add(2, gpt_entries, "GPT entries");
        const auto last = file_.sectors() - 1;
        if (last <= gpt_entries + 2) return;
        table_.add(last, 1, "GPT header (backup)");
        table_.add(last - gpt_entries, gpt_entries, "GPT entries (backup)");
    }

    Whole* whole_at(std::uint64_t sector, std::uint64_t& end) {
        for (auto& whole : wholes_) {
            if (sector < whole.start || sector >= whole.end) continue;
            end = std::min(end, whole.end);
            return &whole;
        }
        return nullptr;
    }

    static std::vector<Explanation> inside(Whole& whole, std::uint64_t at, std::uint64_t end,
                                           std::span<const std::byte> data) {
        if (!whole.part) return {{at, end - at, whole.name + "no file system that is known"}};
        auto found = whole.part->explain(at - whole.start, end - at, data);
        for (auto& one : found) {
            one.sector += whole.start;
            one.text = whole.name + one.text;
        }
        return found;
    }

    ImageFile file_;
    std::vector<Whole> wholes_;
    Ranges<std::string> table_;
};

}  // namespace

std::string Explainer::line(std::uint64_t sector, std::uint64_t sectors, std::span<const std::byte> data,
                            std::size_t most) {
    std::string text;
    std::size_t shown = 0;
    const std::string* last = nullptr;
    const auto parts = explain(sector, sectors, data);
    for (const auto& part : parts) {
        if (last != nullptr && *last == part.text) continue;
        last = &part.text;
        if (shown++ == most) return text + "; ...";
        text += (text.empty() ? "" : "; ") + part.text;
    }
    return text;
}

Result<std::unique_ptr<Explainer>> open_explainer(const std::string& path) {
    auto file = ImageFile::open(path, ImageFile::Mode::read);
    if (!file) return file.error();
    return std::unique_ptr<Explainer>(std::make_unique<DeviceExplainer>(std::move(*file)));
}

}  // namespace dmu::debug
