// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/lib/text_file.h"

#include <fstream>

namespace dmu {

Result<std::string> read_text_file(const std::string& path) {
    constexpr std::size_t limit = 16 << 20;
    std::ifstream file(path, std::ios::binary);
    if (!file) return system_error("cannot open the configuration " + path);
    std::string text;
    char buffer[65536];
    while (file.read(buffer, sizeof buffer) || file.gcount()) {
        text.append(buffer, static_cast<std::size_t>(file.gcount()));
        if (text.size() > limit) return Error{Code::invalid, path + ": larger than 16 MiB, this is no configuration"};
    }
    if (file.bad()) return system_error("cannot read the configuration " + path, EIO);
    return text;
}

}  // namespace dmu
