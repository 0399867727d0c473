// SPDX-License-Identifier: GPL-2.0-or-later
// Each format's page in docs/ mirrors the heads of its headers: a field at the same byte, as wide.
#include <regex>
#include <set>

#include "tests/unit/formats/support.h"

namespace dmu {
namespace {

std::vector<std::string> lines_of(const std::string& name) {
    std::ifstream in(std::filesystem::path(DMU_SOURCE_DIR) / name);
    std::vector<std::string> lines;
    for (std::string line; std::getline(in, line);) lines.push_back(line);
    EXPECT_FALSE(lines.empty()) << name;
    return lines;
}

// "byte 12 u32" and what follows on the line, ", 16 u32": by byte, the width.
std::vector<std::pair<std::string, std::string>> fields_of(const std::string& header) {
    std::vector<std::pair<std::string, std::string>> fields;
    const std::regex field("([0-9]+)  ?(u8|u16|u32|u64)\\b");
    for (const auto& line : lines_of(header)) {
        if (!std::regex_search(line, std::regex("^// +(byte +)?[0-9]+  u(8|16|32|64)\\b"))) continue;
        for (std::sregex_iterator it(line.begin(), line.end(), field), end; it != end; ++it)
            fields.emplace_back((*it)[1], (*it)[2]);
    }
    return fields;
}

// Rows "| 12 | u32 |": of each byte, the widths that a page gives; qcow's has bytes in their stead.
std::set<std::pair<std::string, std::string>> rows_of(const std::string& page) {
    std::set<std::pair<std::string, std::string>> rows;
    const std::regex row("^\\| ([0-9, ]+) \\| ([^|]*) \\|");
    for (const auto& line : lines_of(page)) {
        std::smatch found;
        if (!std::regex_search(line, found, row)) continue;
        auto width = found.str(2).substr(0, found.str(2).find(','));
        if (width.find_first_not_of("0123456789") == std::string::npos && !width.empty())
            width = "u" + std::to_string(std::stoul(width) * 8);
        rows.emplace(found.str(1), width);
    }
    return rows;
}

void mirrors(const std::string& page, const std::string& header, std::size_t at_least) {
    SCOPED_TRACE(page);
    const auto rows = rows_of(page);
    const auto fields = fields_of(header);
    EXPECT_GE(fields.size(), at_least) << header;
    for (const auto& field : fields)
        EXPECT_TRUE(rows.count(field)) << "byte " << field.first << ", " << field.second << " of " << header;
}

TEST(FormatPages, MirrorTheHeaders) {
    mirrors("docs/qcow.md", "formats/qcow/header.h", 10);
    mirrors("docs/qcow2.md", "formats/qcow2/header.h", 19);
    mirrors("docs/vmdk.md", "formats/vmdk/sparse_header.h", 20);
}

}  // namespace
}  // namespace dmu
