// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/debug/offline/plot.h"

#include <algorithm>
#include <iomanip>

namespace dmu::debug {

namespace {

constexpr double left = 90, top = 40, width = 1100, height = 560, bottom_space = 80;
constexpr double least = 1.5;  // how small a request may be drawn

struct Kind {
    const char* name;
    const char* colour;
};
constexpr Kind write_kind{"write", "#1f77b4"}, meta_kind{"write, META", "#2ca02c"}, fua_kind{"write, FUA", "#d62728"},
    read_kind{"read", "#c7c7c7"}, discard_kind{"discard", "#ff9f40"}, zero_kind{"zero", "#9467bd"},
    flush_kind{"flush", "#d62728"}, mark_kind{"mark", "#000000"};

Kind kind_of(const Record& record) {
    switch (record.op) {
        case Op::read:
            return read_kind;
        case Op::discard:
            return discard_kind;
        case Op::zero:
            return zero_kind;
        case Op::flush:
            return flush_kind;
        case Op::mark:
            return mark_kind;
        case Op::write:
            break;
    }
    if ((record.flags & flag_fua) != 0) return fua_kind;
    return (record.flags & flag_meta) != 0 ? meta_kind : write_kind;
}

std::string escaped(const std::string& text) {
    std::string safe;
    for (const char c : text) {
        if (c == '&')
            safe += "&amp;";
        else if (c == '<')
            safe += "&lt;";
        else if (c == '>')
            safe += "&gt;";
        else if (static_cast<unsigned char>(c) < 32 || static_cast<unsigned char>(c) > 126)
            safe += '?';
        else
            safe += c;
    }
    return safe;
}

class Plot {
public:
    Plot(std::ostream& out, const LogReader& log, const Filter& filter, bool by_number)
        : out_(out), by_number_(by_number) {
        bool any = false;
        for (const auto& record : log.records()) {
            if (!filter.takes(record)) continue;
            shown_.push_back(&record);
            first_ = any ? std::min(first_, moment(record)) : moment(record);
            last_ = std::max({last_, moment(record), by_number ? 0 : record.end});
            any = true;
            if (record.sectors == 0) continue;
            low_ = std::min(low_, record.sector);
            high_ = std::max(high_, record.end_sector());
        }
        if (low_ > high_) low_ = 0, high_ = log.header().sectors;
        title_ = escaped(log.header().source) + ": " + std::to_string(shown_.size()) + " requests";
    }

    void draw() {
        out_ << std::fixed << std::setprecision(2);
        out_ << "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" << left + width + 20 << "\" height=\""
             << top + height + bottom_space << "\" font-family=\"sans-serif\" font-size=\"12\">\n"
             << "<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
             << "<text x=\"" << left << "\" y=\"22\" font-size=\"15\">" << title_ << "</text>\n";
        axes();
        for (const auto* record : shown_)
            if (record->op == Op::flush || record->op == Op::mark) line(*record);
        for (const auto* record : shown_)
            if (record->sectors != 0) box(*record);
        legend();
        out_ << "</svg>\n";
    }

private:
    std::uint64_t moment(const Record& record) const { return by_number_ ? record.number : record.time; }
    double x(std::uint64_t at) const {
        return left +
               width * (last_ > first_ ? static_cast<double>(at - first_) / static_cast<double>(last_ - first_) : 0.5);
    }
    double y(std::uint64_t sector) const {
        const auto share = high_ > low_ ? static_cast<double>(sector - low_) / static_cast<double>(high_ - low_) : 0;
        return top + height * (1 - share);
    }

    void text(double at_x, double at_y, const char* anchor, const std::string& words) {
        out_ << "<text x=\"" << at_x << "\" y=\"" << at_y << "\" text-anchor=\"" << anchor << "\">" << words
             << "</text>\n";
    }

    void axes() {
        out_ << "<rect x=\"" << left << "\" y=\"" << top << "\" width=\"" << width << "\" height=\"" << height
             << "\" fill=\"none\" stroke=\"#888888\"/>\n";
        constexpr std::uint64_t steps = 5;
        for (std::uint64_t i = 0; i <= steps; i++) {
            const auto sector = low_ + (high_ - low_) * i / steps;
            text(left - 6, y(sector) + 4, "end", std::to_string(sector));
            const auto at = first_ + (last_ - first_) * i / steps;
            text(x(at), top + height + 18, "middle", by_number_ ? std::to_string(at) : time_text(at));
        }
        text(left + width / 2, top + height + 36, "middle", by_number_ ? "number of the request" : "seconds");
        text(left - 6, top - 10, "end", "sector");
    }

    void line(const Record& record) {
        const auto kind = kind_of(record);
        out_ << "<line x1=\"" << x(moment(record)) << "\" x2=\"" << x(moment(record)) << "\" y1=\"" << top << "\" y2=\""
             << top + height << "\" stroke=\"" << kind.colour << "\" stroke-width=\"0.7\""
             << (record.op == Op::mark ? " stroke-dasharray=\"4 3\"" : "") << "><title>" << escaped(record_text(record))
             << "</title></line>\n";
        if (record.op == Op::mark) text(x(moment(record)) + 3, top + 12, "start", escaped(record.label));
        used(kind);
    }

    void box(const Record& record) {
        const auto kind = kind_of(record);
        const auto from = x(moment(record));
        const auto to = by_number_ ? from : x(std::max(record.end, record.time));
        const auto upper = y(record.end_sector()), lower = y(record.sector);
        out_ << "<rect x=\"" << from << "\" y=\"" << upper << "\" width=\"" << std::max(least, to - from)
             << "\" height=\"" << std::max(least, lower - upper) << "\" fill=\"" << kind.colour << "\""
             << (record.op != Op::read && !record.reached() ? " fill-opacity=\"0.3\" stroke=\"#000000\"" : "")
             << "><title>" << escaped(record_text(record)) << "</title></rect>\n";
        used(kind);
    }

    void used(const Kind& kind) {
        const auto same = [&](const Kind& other) { return std::string_view(other.name) == kind.name; };
        if (std::none_of(kinds_.begin(), kinds_.end(), same)) kinds_.push_back(kind);
    }

    void legend() {
        double at = left;
        for (const auto& kind : kinds_) {
            out_ << "<rect x=\"" << at << "\" y=\"" << top + height + 52 << "\" width=\"12\" height=\"12\" fill=\""
                 << kind.colour << "\"/>\n";
            text(at + 17, top + height + 62, "start", kind.name);
            at += 120;
        }
    }

    std::ostream& out_;
    const bool by_number_;
    std::vector<const Record*> shown_;
    std::vector<Kind> kinds_;
    std::string title_;
    std::uint64_t first_ = 0, last_ = 0, low_ = UINT64_MAX, high_ = 0;
};

}  // namespace

void plot_svg(std::ostream& out, const LogReader& log, const Filter& filter, bool by_number) {
    Plot(out, log, filter, by_number).draw();
}

}  // namespace dmu::debug
