// SPDX-License-Identifier: GPL-2.0-or-later
// Descriptors made and changed, and the encodings of the names in them.
#include <iconv.h>

#include <algorithm>
#include <charconv>
#include <random>

#include "formats/vmdk/descriptor.h"

namespace dmu::vmdk {

namespace {

// Empty: not known, or not text of that encoding.
std::string to_utf8(const std::string& text, const std::string& encoding) {
    const auto converter = ::iconv_open("UTF-8", encoding.c_str());
    if (converter == reinterpret_cast<iconv_t>(-1)) return "";
    std::string out(text.size() * 4, '\0');
    auto in = text;
    char *from = in.data(), *to = out.data();
    std::size_t left = in.size(), room = out.size();
    const auto done = ::iconv(converter, &from, &left, &to, &room);
    ::iconv_close(converter);
    if (done == static_cast<std::size_t>(-1) || left != 0) return "";
    out.resize(out.size() - room);
    return out.find('\0') == out.npos ? out : "";
}

const char* word_of(Access access) {
    switch (access) {
        case Access::read_write:
            return "RW";
        case Access::read_only:
            return "RDONLY";
        case Access::none:
            return "NOACCESS";
    }
    return "";
}

std::string line_of(const ExtentLine& extent) {
    std::string line =
        std::string(word_of(extent.access)) + " " + std::to_string(extent.sectors) + " " + word_of(extent.type);
    if (extent.type != ExtentType::zero) line += " \"" + extent.name + "\"";
    if (extent.type == ExtentType::flat) line += " " + std::to_string(extent.at_sector);
    return line;
}

}  // namespace

const char* word_of(ExtentType type) {
    switch (type) {
        case ExtentType::sparse:
            return "SPARSE";
        case ExtentType::flat:
            return "FLAT";
        case ExtentType::vmfs:
            return "VMFS";
        case ExtentType::vmfs_sparse:
            return "VMFSSPARSE";
        case ExtentType::se_sparse:
            return "SESPARSE";
        case ExtentType::zero:
            return "ZERO";
    }
    return "";
}

std::vector<std::string> names_of(const std::string& written, const std::string& encoding) {
    std::vector<std::string> names;
    if (!encoding.empty()) {
        auto converted = to_utf8(written, encoding);
        if (!converted.empty()) names.push_back(std::move(converted));
    }
    if (names.empty() || names.front() != written) names.push_back(written);
    return names;
}

std::string hex8(std::uint32_t cid) {
    std::string digits(8, '0');
    for (std::size_t i = 8; i-- > 0; cid >>= 4) digits[i] = "0123456789abcdef"[cid & 15];
    return digits;
}

std::string next_cid(const Descriptor& descriptor) {
    std::random_device random;
    const auto digits = descriptor.cid_digits;
    const auto mask = digits >= 8 ? 0xffffffffu : (1u << 4 * digits) - 1;
    std::uint32_t cid = 0;
    // ffffffff is "no parent", fffffffe "no content yet", 0 what some tools leave.
    do cid = static_cast<std::uint32_t>(random()) & mask;
    while (cid == 0 || cid >= 0xfffffffe || cid == descriptor.cid);
    return hex8(cid).substr(8 - digits);
}

Result<Parent> parent_of(const BackingReference& backing, const std::string& image) {
    const auto wrong = [&](Code code, const std::string& what) {
        return Error{code, "vmdk image '" + image + "': " + what};
    };
    if (!backing.format.empty() && backing.format != "vmdk")
        return wrong(Code::unsupported, "the backing file of a vmdk image is a vmdk image, not " + backing.format);
    if (backing.path.empty() || backing.path.size() > 1023 ||
        backing.path.find_first_of(std::string("\"\n\r\0", 4)) != std::string::npos)
        return wrong(Code::invalid, "the name of the backing file must have 1 to 1023 bytes, no quotes or newlines");
    Parent parent;
    parent.name = backing.path;
    const auto& text = backing.identity;
    const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), parent.cid, 16);
    if (failed != std::errc{} || end != text.data() + text.size() || parent.cid == no_parent)
        return wrong(Code::invalid, "the CID of the backing file '" + backing.path + "' is not known ('" + text + "')");
    return parent;
}

std::string with_parent(const Descriptor& descriptor, const std::optional<Parent>& parent) {
    const auto cid = "parentCID=" + hex8(parent ? parent->cid : no_parent) + "\n";
    const auto hint = parent ? "parentFileNameHint=\"" + parent->name + "\"\n" : "";
    std::string out;
    const auto& text = descriptor.text;
    bool cid_written = false;
    for (std::size_t at = 0; at < text.size();) {
        const auto end = std::min(text.find('\n', at), text.size());
        const auto line = text.substr(at, end - at);
        const auto key = key_of(line);
        const bool is_cid = at <= descriptor.cid_at && descriptor.cid_at < end;
        if (key != "parentcid" && key != "parentfilenamehint") out += line + "\n";
        if (is_cid && !cid_written) out += cid + hint;
        cid_written = cid_written || is_cid;
        at = end + 1;
    }
    return out;
}

std::string with_sectors(const Descriptor& descriptor, std::uint64_t sectors) {
    auto text = descriptor.text;
    if (descriptor.size_digits != 0) text.replace(descriptor.size_at, descriptor.size_digits, std::to_string(sectors));
    return text;
}

std::string make_descriptor(const NewDescriptor& plan) {
    constexpr std::uint64_t heads = 16, sectors = 63, most_cylinders = 65535;
    const auto cylinders = std::min(plan.sectors / (heads * sectors), most_cylinders);
    std::string text = "# Disk DescriptorFile\nversion=1\nCID=" + hex8(plan.cid) +
                       "\nparentCID=" + hex8(plan.parent ? plan.parent->cid : no_parent) + "\ncreateType=\"" +
                       plan.create_type + "\"\n";
    if (plan.parent) text += "parentFileNameHint=\"" + plan.parent->name + "\"\n";
    text += "\n# Extent description\n";
    for (const auto& extent : plan.extents) text += line_of(extent) + "\n";
    text += "\n# The Disk Data Base\n#DDB\n\nddb.virtualHWVersion = \"" + plan.hardware_version + "\"\n";
    text += "ddb.geometry.cylinders = \"" + std::to_string(cylinders) + "\"\n";
    text += "ddb.geometry.heads = \"" + std::to_string(heads) + "\"\n";
    text += "ddb.geometry.sectors = \"" + std::to_string(sectors) + "\"\n";
    text += "ddb.adapterType = \"" + plan.adapter_type + "\"\n";
    if (plan.is_lazy) text += "ddb.dmuMade = \"1" + std::string(plan.extents.size() - 1, '0') + "\"\n";
    return text;
}

}  // namespace dmu::vmdk
