// SPDX-License-Identifier: GPL-2.0-or-later
// What the tests of dmu-debug's offline commands share.
#pragma once

#include <gmock/gmock.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <vector>

#include "tools/debug/log.h"

#define ASSERT_OK(expression)                                  \
    do {                                                       \
        const auto& result_of_ = (expression);                 \
        ASSERT_TRUE(result_of_) << result_of_.error().message; \
    } while (false)

namespace dmu::debug {

using Bytes = std::vector<std::byte>;

inline Bytes bytes_of(const std::string& text) {
    const auto bytes = std::as_bytes(std::span(text));
    return {bytes.begin(), bytes.end()};
}

inline Bytes read_file(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return bytes_of({std::istreambuf_iterator<char>(in), {}});
}

inline void write_file(const std::string& path, const Bytes& bytes) {
    std::ofstream out(path, std::ios::binary);
    out.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
}

// A directory of its own, removed at the end.
class TempDir {
public:
    TempDir() {
        std::string name = std::filesystem::temp_directory_path().string() + "/dmu-debug-XXXXXX";
        path_ = ::mkdtemp(name.data());
    }
    ~TempDir() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    TempDir(const TempDir&) = delete;
    TempDir& operator=(const TempDir&) = delete;
    const std::string& path() const { return path_; }
    std::string operator/(const std::string& name) const { return path_ + "/" + name; }

private:
    std::string path_;
};

}  // namespace dmu::debug
