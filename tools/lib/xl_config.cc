// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/lib/xl_config.h"

extern "C" {
#include <libxlutil.h>
}

#include <climits>
#include <cstdio>
#include <cstdlib>
#include <memory>

namespace dmu {
namespace {

// What libxlutil reports, one message per line.
class Report {
public:
    Report() : stream_(open_memstream(&text_, &length_)) {}
    ~Report() {
        if (stream_) std::fclose(stream_);
        std::free(text_);
    }
    Report(const Report&) = delete;
    Report& operator=(const Report&) = delete;

    std::FILE* stream() const { return stream_; }
    std::string text() const {
        std::fflush(stream_);
        std::string text(text_, length_);
        while (text.ends_with('\n')) text.pop_back();
        return text;
    }

private:
    char* text_ = nullptr;
    std::size_t length_ = 0;
    std::FILE* stream_;
};

struct ConfigDeleter {
    void operator()(XLU_Config* config) const { xlu_cfg_destroy(config); }
};

Error not_readable(const std::string& name, const std::string& said) {
    return {Code::invalid, name + ": xl's parser does not understand it:\n" + said +
                               "\nA configuration of the old xm that computes values (Python) has to be written out "
                               "first: only NAME = VALUE, strings, numbers and lists remain."};
}

}  // namespace

Result<std::optional<std::vector<std::string>>> parse_disk_list(const std::string& text, const std::string& name) {
    Report report;
    if (!report.stream()) return system_error("cannot make a memory stream");
    std::unique_ptr<XLU_Config, ConfigDeleter> config(xlu_cfg_init(report.stream(), name.c_str()));
    if (!config) return Error{Code::io, name + ": out of memory"};
    if (text.size() > INT_MAX) return Error{Code::invalid, name + ": too large for a configuration"};
    if (xlu_cfg_readdata(config.get(), text.data(), static_cast<int>(text.size())) != 0)
        return not_readable(name, report.text());

    XLU_ConfigList* list = nullptr;
    int entries = 0;
    switch (xlu_cfg_get_list(config.get(), "disk", &list, &entries, 1)) {
        case 0:
            break;
        case ESRCH:
            return std::optional<std::vector<std::string>>();
        default:
            return Error{Code::invalid, name + ": 'disk' is no list; write disk = ['dmu:qcow:/vm/disk.qcow,xvda,w']"};
    }
    std::vector<std::string> disks;
    for (int i = 0; i < entries; ++i) {
        const char* entry = xlu_cfg_get_listitem(list, i);
        if (!entry) return Error{Code::invalid, name + ": entry " + std::to_string(i + 1) + " of 'disk' is no string"};
        disks.emplace_back(entry);
    }
    return std::optional(std::move(disks));
}

std::string quote_for_xl(const std::string& text, char quote) {
    std::string quoted(1, quote);
    for (const char c : text) {
        if (c == quote || c == '\\') {
            quoted += '\\';
            quoted += c;
        } else if (c == '\n') {
            quoted += "\\n";
        } else {
            quoted += c;
        }
    }
    return quoted + quote;
}

std::string disk_assignment(const std::vector<std::string>& entries) {
    std::string text = "disk=[";
    for (std::size_t i = 0; i < entries.size(); ++i) {
        if (i) text += ',';
        text += quote_for_xl(entries[i]);
    }
    return text + "]";
}

}  // namespace dmu
