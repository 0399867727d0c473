// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/debug/offline/log_writes.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "formats/core/endian.h"
#include "tools/debug/offline/image_file.h"

namespace dmu::debug {

namespace {

constexpr std::uint64_t magic = 0x6a736677736872, version = 1;
constexpr std::uint64_t entry_flush = 1, entry_fua = 2, entry_discard = 4, entry_mark = 8, entry_meta = 16;
constexpr std::size_t super_bytes = 28, entry_bytes = 32;
constexpr std::uint64_t piece_bytes = 1 << 20;

struct Entry {
    std::uint64_t sector = 0, sectors = 0;  // of the log's unit
    std::uint64_t flags = 0, data_length = 0;
};

// ------------------------------------------------------------------ export ---

// In the order in which dm-log-writes logs them.
class Order {
public:
    explicit Order(const LogReader& log) {
        std::vector<Event> events;
        for (const auto& record : log.records()) {
            if (record.op == Op::read) continue;
            if (record.op == Op::mark || record.op == Op::flush) events.push_back({record.time, &record, false});
            if (record.end != 0 && (record.reached() || record.op == Op::flush))
                events.push_back({record.end, &record, true});
        }
        std::stable_sort(events.begin(), events.end(), [](const Event& a, const Event& b) {
            return a.time != b.time ? a.time < b.time : a.record->number < b.record->number;
        });
        for (const auto& event : events) take(event);
        for (auto& [flush, list] : flushing_) unflushed_.insert(unflushed_.end(), list.begin(), list.end());
        release(unflushed_);
    }
    const std::vector<Applied>& entries() const { return entries_; }

private:
    struct Event {
        std::uint64_t time;
        const Record* record;
        bool end;
    };

    void release(std::vector<Applied>& list) {
        std::stable_sort(list.begin(), list.end(),
                         [](const Applied& a, const Applied& b) { return a.record->order < b.record->order; });
        entries_.insert(entries_.end(), list.begin(), list.end());
        list.clear();
    }

    void take(const Event& event) {
        const auto& record = *event.record;
        if (record.op == Op::mark) {
            entries_.push_back({&record, 0, 0});
        } else if (record.op == Op::flush && !event.end) {
            flushing_[&record].swap(unflushed_);
        } else if (record.op == Op::flush) {
            auto& list = flushing_[&record];
            release(list);
            if (record.outcome == Outcome::through) entries_.push_back({&record, 0, 0});
        } else if ((record.flags & flag_fua) != 0) {
            release_under(applied(record));
            entries_.push_back(applied(record));
        } else {
            unflushed_.push_back(applied(record));
        }
    }

    // What the FUA write has overwritten must not come behind it.
    void release_under(const Applied& fua) {
        std::vector<Applied> under;
        const auto pick = [&](std::vector<Applied>& list) {
            const auto rest = std::stable_partition(list.begin(), list.end(), [&](const Applied& one) {
                return !overlap(one, fua) || one.record->order > fua.record->order;
            });
            under.insert(under.end(), rest, list.end());
            list.erase(rest, list.end());
        };
        for (auto& [flush, list] : flushing_) pick(list);
        pick(unflushed_);
        release(under);
    }

    std::vector<Applied> entries_, unflushed_;
    std::map<const Record*, std::vector<Applied>> flushing_;
};

class Exporter {
public:
    Exporter(const LogReader& log, ImageFile& file) : log_(log), file_(file), unit_(log.header().block), next_(unit_) {}

    Status run() {
        const Order order(log_);
        for (const auto& one : order.entries())
            if (auto done = add(one); !done) return done;
        std::vector<std::byte> super(unit_);
        store_le(std::span(super), 0, magic);
        store_le(std::span(super), 8, version);
        store_le<std::uint64_t>(super, 16, order.entries().size());
        store_le<std::uint32_t>(super, 24, static_cast<std::uint32_t>(unit_));
        if (auto done = file_.write(0, super); !done) return done;
        // It may end in zeros that were never written.
        if (!file_.is_device())
            if (auto done = file_.resize(next_ / sector_bytes); !done) return done;
        return file_.sync();
    }

private:
    Status add(const Applied& one) {
        const auto& record = *one.record;
        const auto sector = record.sector + one.first;
        if (sector * sector_bytes % unit_ != 0 || one.count * sector_bytes % unit_ != 0)
            return Error{Code::unsupported, "record " + std::to_string(record.number) + " is not of whole blocks of " +
                                                std::to_string(unit_) + " bytes; the format has no words for that"};
        Entry entry{sector * sector_bytes / unit_, one.count * sector_bytes / unit_, 0, 0};
        if (record.op == Op::flush) entry.flags |= entry_flush;
        if (record.op == Op::mark) entry.flags |= entry_mark;
        if (record.op == Op::discard) entry.flags |= entry_discard;
        if ((record.flags & flag_fua) != 0) entry.flags |= entry_fua;
        if ((record.flags & flag_meta) != 0) entry.flags |= entry_meta;
        entry.data_length = record.label.size();
        std::vector<std::byte> raw(unit_);
        store_le(std::span(raw), 0, entry.sector);
        store_le(std::span(raw), 8, entry.sectors);
        store_le(std::span(raw), 16, entry.flags);
        store_le(std::span(raw), 24, entry.data_length);
        std::memcpy(raw.data() + entry_bytes, record.label.data(), record.label.size());
        if (auto done = file_.write(next_, raw); !done) return done;
        next_ += unit_;
        return record.op == Op::write || record.op == Op::zero ? add_data(one) : ok();
    }

    Status add_data(const Applied& one) {
        const auto length = one.count * sector_bytes;
        if (one.record->op == Op::zero) {
            // The format knows no write-zeroes.
            if (auto done = file_.zero(next_, length); !done) return done;
        } else {
            std::vector<std::byte> buffer(std::min(piece_bytes, length));
            for (std::uint64_t at = 0; at < length; at += buffer.size()) {
                const auto part = std::span(buffer).first(std::min<std::uint64_t>(buffer.size(), length - at));
                if (auto done = log_.read_data(*one.record, one.first * sector_bytes + at, part); !done) return done;
                if (auto done = file_.write(next_ + at, part); !done) return done;
            }
        }
        next_ += length;
        return ok();
    }

    const LogReader& log_;
    ImageFile& file_;
    std::uint64_t unit_, next_;
};

// ------------------------------------------------------------------ import ---

class Importer {
public:
    Importer(const ImageFile& file, std::string directory) : file_(file), directory_(std::move(directory)) {}

    Status run(std::uint64_t sectors) {
        if (auto done = read_super(); !done) return done;
        // Twice: the first time only to learn how far it goes.
        if (sectors == 0) {
            auto done = each([&](const Entry& entry, std::uint64_t) {
                sectors = std::max(sectors, (entry.sector + entry.sectors) * unit_ / sector_bytes);
                return ok();
            });
            if (!done) return done;
        }
        sectors_ = sectors;
        auto made = LogWriter::create(directory_, {sectors, static_cast<std::uint32_t>(unit_), 0, file_.path()});
        if (!made) return made.error();
        writer_ = std::move(*made);
        return each([&](const Entry& entry, std::uint64_t at) { return add(entry, at); });
    }

private:
    Status read_super() {
        std::array<std::byte, super_bytes> super{};
        if (auto done = file_.read(0, super); !done) return done;
        if (load_le<std::uint64_t>(super, 0) != magic)
            return Error{Code::corrupt, file_.path() + " does not begin as a log of dm-log-writes does"};
        if (load_le<std::uint64_t>(super, 8) != version)
            return Error{Code::unsupported, file_.path() + ": version " +
                                                std::to_string(load_le<std::uint64_t>(super, 8)) + " is not known"};
        entries_ = load_le<std::uint64_t>(super, 16);
        unit_ = load_le<std::uint32_t>(super, 24);
        if (unit_ < sector_bytes || unit_ > 65536 || (unit_ & (unit_ - 1)) != 0)
            return Error{Code::corrupt, file_.path() + ": sectors of " + std::to_string(unit_) + " bytes"};
        return ok();
    }

    // work(entry, where its block lies)
    template <typename Work>
    Status each(Work work) {
        const auto size = file_.sectors() * sector_bytes;
        auto at = unit_;
        for (std::uint64_t i = 0; i < entries_; i++) {
            const auto name = "entry " + std::to_string(i + 1) + " of " + std::to_string(entries_);
            std::array<std::byte, entry_bytes> raw{};
            if (at > size || size - at < unit_) return Error{Code::corrupt, file_.path() + " ends before " + name};
            if (auto done = file_.read(at, raw); !done) return done;
            const Entry entry{load_le<std::uint64_t>(raw, 0), load_le<std::uint64_t>(raw, 8),
                              load_le<std::uint64_t>(raw, 16), load_le<std::uint64_t>(raw, 24)};
            const bool discard = (entry.flags & entry_discard) != 0, mark = (entry.flags & entry_mark) != 0;
            constexpr std::uint64_t most = std::uint64_t{1} << 40;
            if (entry.sector > most || entry.sectors > most || (mark && entry.data_length > unit_ - entry_bytes) ||
                (!discard && entry.sectors > (size - at) / unit_ - 1))
                return Error{Code::corrupt,
                             file_.path() + ": " + name + " at byte " + std::to_string(at) + " makes no sense"};
            if (auto done = work(entry, at); !done) return done.error().in(file_.path() + ": " + name);
            at += unit_ * (1 + (discard ? 0 : entry.sectors));
        }
        return ok();
    }

    Record record(const Entry& entry, Op op) {
        Record record;
        record.op = op;
        record.outcome = Outcome::through;
        record.time = record.end = record.order = writer_->count() + 1;
        record.sector = entry.sector * unit_ / sector_bytes;
        record.sectors = entry.sectors * unit_ / sector_bytes;
        if ((entry.flags & entry_fua) != 0) record.flags |= flag_fua;
        if ((entry.flags & entry_meta) != 0) record.flags |= flag_meta;
        return record;
    }

    Status add(const Entry& entry, std::uint64_t at) {
        if ((entry.flags & entry_mark) != 0) return add_mark(entry, at);
        if ((entry.flags & entry_flush) != 0) {
            // An empty one may have the other flags of the request that it stands before.
            auto flush = record({entry.sector, 0, entry.sectors == 0 ? entry.flags : 0, 0}, Op::flush);
            if (auto done = writer_->append(flush); !done) return done;
        }
        if (entry.sectors == 0) return ok();
        auto one = record(entry, (entry.flags & entry_discard) != 0 ? Op::discard : Op::write);
        if (one.end_sector() > sectors_)
            return Error{Code::invalid, "it writes up to sector " + std::to_string(one.end_sector()) +
                                            ", the device is said to have " + std::to_string(sectors_)};
        if (one.op == Op::write)
            if (auto done = copy_data(one, at + unit_); !done) return done;
        return writer_->append(one);
    }

    Status add_mark(const Entry& entry, std::uint64_t at) {
        auto mark = record({}, Op::mark);
        std::string text(std::min<std::uint64_t>(entry.data_length, label_bytes), '\0');
        if (auto done = file_.read(at + entry_bytes, std::as_writable_bytes(std::span(text))); !done) return done;
        mark.label = text;
        return writer_->append(mark);
    }

    Status copy_data(Record& record, std::uint64_t at) {
        auto place = writer_->reserve(record.sectors);
        if (!place) return place.error();
        record.data = *place;
        const auto length = record.sectors * sector_bytes;
        std::vector<std::byte> buffer(std::min(piece_bytes, length));
        for (std::uint64_t done = 0; done < length; done += buffer.size()) {
            const auto part = std::span(buffer).first(std::min<std::uint64_t>(buffer.size(), length - done));
            if (auto read = file_.read(at + done, part); !read) return read;
            if (auto written = writer_->write_data(*place + done, part); !written) return written;
        }
        return ok();
    }

    const ImageFile& file_;
    std::string directory_;
    std::unique_ptr<LogWriter> writer_;
    std::uint64_t entries_ = 0, unit_ = sector_bytes, sectors_ = 0;
};

}  // namespace

Status export_log_writes(const LogReader& log, const std::string& path) {
    auto file = ImageFile::open(path, ImageFile::Mode::create);
    if (!file) return file.error();
    return Exporter(log, *file).run();
}

Status import_log_writes(const std::string& path, const std::string& directory, std::uint64_t sectors) {
    auto file = ImageFile::open(path, ImageFile::Mode::read);
    if (!file) return file.error();
    return Importer(*file, directory).run(sectors);
}

}  // namespace dmu::debug
