// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/lib/disk_entry.h"

#include <algorithm>
#include <array>
#include <regex>

#include "formats/core/spec.h"

namespace dmu {
namespace {

constexpr char expected[] =
    "expected dmu:FORMAT:PATH,VDEV,MODE with MODE r or w, for instance dmu:qcow:/vm/disk.qcow,xvda,w";

using Fields = std::vector<std::string>;

Fields split(const std::string& text) {
    Fields fields;
    std::size_t start = 0;
    for (;;) {
        const auto comma = text.find(',', start);
        fields.push_back(text.substr(start, comma - start));
        if (comma == std::string::npos) return fields;
        start = comma + 1;
    }
}

std::string join(Fields::const_iterator begin, Fields::const_iterator end) {
    std::string text;
    for (auto field = begin; field != end; ++field) {
        if (field != begin) text += ',';
        text += *field;
    }
    return text;
}

std::string trim(const std::string& text) {
    const auto first = text.find_first_not_of(" \t");
    if (first == std::string::npos) return {};
    return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

Error wrong(const std::string& entry, const std::string& what) {
    return {Code::invalid, "disk '" + entry + "': " + what};
}

// xl's names of virtual disks: libxl__device_disk_dev_number() of Xen.
bool is_vdev(const std::string& text) {
    static const std::regex names("(xvd|hd|sd)[a-z]+[0-9]*|d[0-9]+(p[0-9]+)?|0x[0-9a-fA-F]+|[0-9]+");
    return std::regex_match(text, names);
}

// xm's decorations: "ioemu:hda", "/dev/xvda", "xvda:disk".
std::string plain_vdev(std::string text) {
    text = trim(text);
    for (const std::string prefix : {"ioemu:", "/dev/"})
        if (text.starts_with(prefix)) text.erase(0, prefix.size());
    const std::string suffix = ":disk";
    if (text.ends_with(suffix)) text.erase(text.size() - suffix.size());
    return text;
}

bool is_cdrom(const std::string& vdev) {
    return trim(vdev).ends_with(":cdrom");
}
bool looks_like_vdev(const std::string& field) {
    return is_vdev(plain_vdev(field)) || is_cdrom(field);
}

bool is_mode(const std::string& text) {
    static constexpr std::array modes{"r", "ro", "w", "rw", "w!"};
    return std::find(modes.begin(), modes.end(), text) != modes.end();
}

// Options of xl that may follow the positional part.
bool is_option(const std::string& text) {
    static constexpr std::array words{"discard", "no-discard", "direct-io-safe"};
    static constexpr std::array keys{"script=", "backend=", "backendtype=", "format=", "devtype="};
    return std::find(words.begin(), words.end(), text) != words.end() ||
           std::any_of(keys.begin(), keys.end(), [&](const char* key) { return text.starts_with(key); });
}

bool is_script(const std::string& text) {
    return text.starts_with("script=");
}
bool is_our_script(const std::string& text) {
    return text == "script=block-dmu" || text.ends_with("/block-dmu");
}

struct Parts {
    std::string target;  // "dmu:FORMAT:PATH"
    std::string vdev;
    std::string mode;
    std::string backend;
    Fields options;
};

Result<std::string> canonical(const std::string& entry, const Parts& parts) {
    const auto spec = parse_spec(parts.target);
    if (!spec) return wrong(entry, spec.error().message);
    if (spec->path.front() != '/')
        return wrong(entry,
                     "the path '" + spec->path + "' is relative; the hotplug script has no directory to start from");
    if (spec->path.find('\n') != std::string::npos)
        return wrong(entry, "the path holds a newline, which xl cannot pass");
    if (is_cdrom(parts.vdev))
        return wrong(entry, "a CD-ROM cannot have a script; attach the image as a read-only disk");
    const std::string vdev = plain_vdev(parts.vdev);
    if (!is_vdev(vdev)) return wrong(entry, "'" + parts.vdev + "' is no virtual disk as xvda is; " + expected);
    if (!is_mode(parts.mode)) return wrong(entry, "'" + parts.mode + "' is no mode; " + expected);
    if (parts.mode == "w!")
        return wrong(entry,
                     "mode w! (shared writing) is not possible: two writers would destroy the image; use w or r");

    std::string text =
        "vdev=" + vdev + ",access=" + (parts.mode.find('w') != std::string::npos ? "w" : "r") + ",script=block-dmu";
    if (!parts.backend.empty()) text += ",backend=" + parts.backend;
    for (const auto& option : parts.options)
        if (!is_script(option)) text += "," + option;
    return text + ",target=" + spec->text();
}

// "dmu:FORMAT:PATH,VDEV,MODE[,BACKEND-DOMAIN]" and xl's "dmu:FORMAT:PATH,[raw],VDEV,MODE"
// with xl's options behind.
Result<Parts> parse_positional(const std::string& entry, Fields fields, bool& xl_form) {
    Parts parts;
    while (fields.size() > 1 && is_option(trim(fields.back()))) {
        parts.options.insert(parts.options.begin(), trim(fields.back()));
        fields.pop_back();
    }
    const auto from_end = [&](std::size_t n) { return fields.size() > n ? fields[fields.size() - 1 - n] : ""; };
    if (fields.size() >= 4 && !is_mode(trim(from_end(0))) && is_mode(trim(from_end(1))) &&
        looks_like_vdev(from_end(2))) {
        parts.backend = trim(from_end(0));
        fields.pop_back();
    }
    if (fields.size() < 2) return wrong(entry, expected);
    if (fields.size() < 3 || !is_mode(trim(from_end(0))) || !looks_like_vdev(from_end(1))) {
        if (looks_like_vdev(from_end(0))) return wrong(entry, std::string("the mode is missing; ") + expected);
        return wrong(entry, expected);
    }
    parts.mode = trim(from_end(0));
    parts.vdev = trim(from_end(1));
    fields.resize(fields.size() - 2);
    if (fields.size() >= 2 && (trim(fields.back()).empty() || trim(fields.back()) == "raw")) {
        fields.pop_back();
        xl_form = parts.backend.empty() && fields.size() == 1 && fields[0].find('=') == std::string::npos;
    }
    parts.target = join(fields.begin(), fields.end());
    return parts;
}

Result<DiskTranslation> translate_positional(const std::string& entry, const std::string& text) {
    bool xl_form = false;
    const auto parts = parse_positional(entry, split(text), xl_form);
    if (!parts) return parts.error();
    const auto script = std::find_if(parts->options.begin(), parts->options.end(), is_script);
    if (script != parts->options.end() && !is_our_script(*script)) return DiskTranslation{entry, false};
    const auto result = canonical(entry, *parts);
    if (!result) return result.error();
    if (xl_form && script != parts->options.end()) return DiskTranslation{entry, false};
    return DiskTranslation{*result, true};
}

// "vdev=xvda,access=w,target=dmu:qcow:/p": only the script may be missing.
Result<DiskTranslation> translate_keys(const std::string& entry, const Fields& fields, Fields::const_iterator target) {
    const std::string value = trim(join(target, fields.end())).substr(sizeof "target=" - 1);
    if (!is_dmu_target(value)) return DiskTranslation{entry, false};
    if (std::any_of(fields.begin(), target, [](const std::string& field) { return is_script(trim(field)); }))
        return DiskTranslation{entry, false};
    const auto spec = parse_spec(value.substr(value.find("dmu:")));
    if (!spec) return wrong(entry, spec.error().message);
    std::string text = join(fields.begin(), target);
    if (!text.empty()) text += ',';
    return DiskTranslation{text + "script=block-dmu,target=" + spec->text(), true};
}

}  // namespace

bool is_dmu_target(const std::string& text) {
    return text.starts_with("dmu:") || text.starts_with("phy:dmu:");
}

Result<DiskTranslation> translate_disk(const std::string& entry) {
    const auto start = entry.find_first_not_of(" \t");
    std::string text = start == std::string::npos ? "" : entry.substr(start);
    if (is_dmu_target(text)) return translate_positional(entry, text.substr(text.find("dmu:")));

    const Fields fields = split(text);
    const auto target = std::find_if(fields.begin(), fields.end(),
                                     [](const std::string& field) { return trim(field).starts_with("target="); });
    if (target != fields.end()) return translate_keys(entry, fields, target);
    return DiskTranslation{entry, false};
}

Result<std::string> translate_disk_words(const std::string& target, const std::string& vdev, const std::string& mode,
                                         const std::string& backend) {
    Parts parts;
    parts.target = is_dmu_target(target) ? target.substr(target.find("dmu:")) : target;
    parts.vdev = vdev;
    parts.mode = mode;
    parts.backend = backend;
    return canonical(target + " " + vdev + " " + mode, parts);
}

Result<DiskListTranslation> translate_disks(const std::vector<std::string>& entries) {
    DiskListTranslation all;
    for (const auto& entry : entries) {
        auto one = translate_disk(entry);
        if (!one) return one.error();
        all.changed |= one->changed;
        all.entries.push_back(std::move(one->text));
    }
    return all;
}

}  // namespace dmu
