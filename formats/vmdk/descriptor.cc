// SPDX-License-Identifier: GPL-2.0-or-later
#include "formats/vmdk/descriptor.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <utility>

namespace dmu::vmdk {

namespace {

constexpr std::uint64_t newest_version = 4;

std::string lower(std::string_view text) {
    std::string out(text);
    for (auto& c : out)
        if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    return out;
}

std::string_view trimmed(std::string_view text) {
    const auto first = text.find_first_not_of(blanks);
    if (first == text.npos) return text.substr(text.size());
    return text.substr(first, text.find_last_not_of(blanks) - first + 1);
}

std::string_view unquoted(std::string_view text) {
    if (text.size() >= 2 && text.front() == '"' && text.back() == '"') return text.substr(1, text.size() - 2);
    return text;
}

bool parse_number(std::string_view text, int base, std::uint64_t& into) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), into, base);
    return error == std::errc{} && end == text.data() + text.size();
}

struct Word {
    std::string_view text;
    bool quoted = false;
};

// The words of an extent's line; a name in quotes is one. False: a quote is not closed.
bool split(std::string_view line, std::vector<Word>& into) {
    while (!(line = trimmed(line)).empty()) {
        if (line.front() == '"') {
            const auto end = line.find('"', 1);
            if (end == line.npos) return false;
            into.push_back({line.substr(1, end - 1), true});
            line = line.substr(end + 1);
        } else {
            const auto end = std::min(line.find_first_of(" \t\""), line.size());
            into.push_back({line.substr(0, end), false});
            line = line.substr(end);
        }
    }
    return true;
}

constexpr std::array<std::pair<std::string_view, Access>, 3> accesses{{
    {"rw", Access::read_write},
    {"rdonly", Access::read_only},
    {"noaccess", Access::none},
}};

constexpr std::array<std::pair<std::string_view, ExtentType>, 6> types{{
    {"sparse", ExtentType::sparse},
    {"flat", ExtentType::flat},
    {"vmfs", ExtentType::vmfs},
    {"vmfssparse", ExtentType::vmfs_sparse},
    {"sesparse", ExtentType::se_sparse},
    {"zero", ExtentType::zero},
}};

class Parser {
public:
    Parser(std::string_view text, Kept kept, const std::string& name) : kept_(kept), name_(name) {
        made_.text = std::string(text.substr(0, std::min(text.find('\0'), text.size())));
    }

    Result<Descriptor> run();

private:
    Error wrong(Code code, const std::string& what) const { return {code, "vmdk descriptor '" + name_ + "': " + what}; }
    Error wrong_line(Code code, const std::string& what) const {
        return wrong(code, "line " + std::to_string(line_) + " " + what);
    }
    Status take_line(std::string_view line);
    Status take_key(const std::string& key, std::string_view value);
    Status take_cid(const std::string& key, std::string_view value);
    Status take_extent(Access access, std::string_view line);
    Status take_place(const std::vector<Word>& words, ExtentLine& extent);
    Status check_made() const;
    Status finish();

    const Kept kept_;
    const std::string& name_;
    Descriptor made_;
    std::size_t line_ = 0;
    std::uint64_t sectors_ = 0;
    bool has_version_ = false, has_cid_ = false, has_parent_cid_ = false;
};

Result<Descriptor> Parser::run() {
    const std::string_view text = made_.text;
    if (text.size() > max_descriptor_bytes) return wrong(Code::unsupported, "it has more than 2 MiB");
    for (std::size_t at = 0; at < text.size();) {
        line_++;
        const auto end = std::min(text.find('\n', at), text.size());
        auto taken = take_line(trimmed(text.substr(at, end - at)));
        if (!taken) return taken.error();
        at = end + 1;
    }
    auto done = finish();
    if (!done) return done.error();
    return std::move(made_);
}

Status Parser::take_line(std::string_view line) {
    if (line.empty() || line.front() == '#') return ok();
    const auto word = lower(line.substr(0, line.find_first_of(" \t")));
    for (const auto& [text, access] : accesses)
        if (word == text) return take_extent(access, line);
    const auto equals = line.find('=');
    if (equals == line.npos) {
        // Converters leave a first line of their own.
        if (line_ == 1 || kept_ == Kept::embedded) return ok();
        return wrong_line(Code::corrupt, "is neither 'key=value' nor an extent");
    }
    return take_key(key_of(line), unquoted(trimmed(line.substr(equals + 1))));
}

Status Parser::take_key(const std::string& key, std::string_view value) {
    if (key == "cid" || key == "parentcid") return take_cid(key, value);
    if (key == "version") {
        std::uint64_t version = 0;
        if (!parse_number(value, 10, version)) return wrong_line(Code::corrupt, "holds a version that is no number");
        if (version == 0 || version > newest_version)
            return wrong_line(Code::unsupported, "says version " + std::to_string(version) + "; 1 to 4 can be opened");
        has_version_ = true;
    } else if (key == "createtype") {
        made_.create_type = value;
    } else if (key == "parentfilenamehint") {
        made_.parent_name = value;
    } else if (key == "encoding") {
        made_.encoding = value;
    } else if (key == "changetrackpath") {
        made_.tracks_changes = !value.empty();
    } else if (key == "ddb.dmumade" && kept_ == Kept::file) {
        made_.made = value;
        made_.made_at = static_cast<std::size_t>(value.data() - made_.text.data());
    }
    return ok();
}

Status Parser::take_cid(const std::string& key, std::string_view value) {
    std::uint64_t cid = 0;
    if (value.empty() || value.size() > 8 || !parse_number(value, 16, cid))
        return wrong_line(Code::corrupt, "holds a " + key + " that is not 1 to 8 hexadecimal digits");
    auto& has = key == "cid" ? has_cid_ : has_parent_cid_;
    if (has) return wrong_line(Code::corrupt, "holds a second " + key);
    has = true;
    if (key == "cid") {
        made_.cid = static_cast<std::uint32_t>(cid);
        made_.cid_at = static_cast<std::size_t>(value.data() - made_.text.data());
        made_.cid_digits = value.size();
    } else {
        made_.parent_cid = static_cast<std::uint32_t>(cid);
    }
    return ok();
}

Status Parser::take_extent(Access access, std::string_view line) {
    std::vector<Word> words;
    const bool closed = split(line, words);
    ExtentLine extent;
    extent.access = access;
    const bool sized = words.size() > 1 && parse_number(words[1].text, 10, extent.sectors);
    if (sized && access == Access::read_write && made_.size_digits == 0) {
        made_.size_at = static_cast<std::size_t>(words[1].text.data() - made_.text.data());
        made_.size_digits = words[1].text.size();
    }
    if (kept_ == Kept::embedded) return ok();
    if (!closed) return wrong_line(Code::corrupt, "has a quote that is not closed");
    if (words.size() < 3) return wrong_line(Code::corrupt, "is an extent without size and type");
    if (made_.extents.size() == max_extents)
        return wrong_line(Code::unsupported, "is one extent more than " + std::to_string(max_extents));
    if (!sized || extent.sectors == 0)
        return wrong_line(Code::corrupt, "is an extent whose size is no number of sectors");
    if (extent.sectors > max_disk_sectors - sectors_) return wrong_line(Code::corrupt, "makes the disk too large");
    sectors_ += extent.sectors;
    const auto type = lower(words[2].text);
    const auto* known = std::find_if(types.begin(), types.end(), [&](const auto& each) { return each.first == type; });
    if (known == types.end())
        return wrong_line(Code::unsupported, "is an extent of type '" + type +
                                                 "'; FLAT, VMFS, SPARSE, VMFSSPARSE, SESPARSE and ZERO "
                                                 "can be opened");
    extent.type = known->second;
    auto placed = take_place(words, extent);
    if (placed) made_.extents.push_back(std::move(extent));
    return placed;
}

Status Parser::take_place(const std::vector<Word>& words, ExtentLine& extent) {
    if (extent.type == ExtentType::zero) return ok();
    if (words.size() < 4 || words[3].text.empty()) return wrong_line(Code::corrupt, "is an extent without a file");
    extent.name = words[3].text;
    if (extent.type != ExtentType::flat && extent.type != ExtentType::vmfs) return ok();
    if (words.size() < 5) {
        if (extent.type == ExtentType::vmfs) return ok();
        return wrong_line(Code::corrupt, "is a FLAT extent without the place in its file");
    }
    if (!parse_number(words[4].text, 10, extent.at_sector) || extent.at_sector > max_disk_sectors)
        return wrong_line(Code::corrupt, "is an extent whose place in its file is no number of a sector");
    return ok();
}

// An extent that is to come is like the first one.
Status Parser::check_made() const {
    const auto& made = made_.made;
    if (made.empty()) return ok();
    if (made.size() != made_.extents.size() || made.find_first_not_of("01") != made.npos || made.front() != '1')
        return wrong(Code::corrupt, "its ddb.dmuMade has not a 0 or a 1 for each extent, or a 0 for the first");
    for (std::size_t i = 0; i < made.size(); i++)
        if (made_.extents[i].type != ExtentType::sparse || made_.extents[i].access != Access::read_write)
            return wrong(Code::corrupt, "it has a ddb.dmuMade, but not only extents of type SPARSE and access RW");
    return ok();
}

Status Parser::finish() {
    if (!has_version_) return wrong(Code::corrupt, "it says no version");
    if (!has_cid_) return wrong(Code::corrupt, "it holds no CID");
    if (made_.parent_cid == no_parent)
        made_.parent_name.clear();
    else if (made_.parent_name.empty())
        return wrong(Code::corrupt, "it has a parent (parentCID=" + hex8(made_.parent_cid) +
                                        "), but no parentFileNameHint says where");
    if (kept_ == Kept::file && made_.extents.empty()) return wrong(Code::corrupt, "it lists no extents");
    return check_made();
}

}  // namespace

std::string key_of(std::string_view line) {
    return lower(trimmed(line.substr(0, line.find('='))));
}

Result<Descriptor> parse_descriptor(std::string_view text, Kept kept, const std::string& name) {
    return Parser(text, kept, name).run();
}

bool is_descriptor(std::string_view head) {
    const auto end = std::min(head.find('\0'), head.size());
    const auto text = lower(head.substr(0, end));
    if (text.starts_with("# disk descriptorfile")) return true;
    return text.find("cid=") != text.npos && text.find("createtype") != text.npos;
}

}  // namespace dmu::vmdk
