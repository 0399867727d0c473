// SPDX-License-Identifier: GPL-2.0-or-later
// dmu-img info: what an image says of itself. Opens nothing but that file, and reads its
// headers only; --chain opens the backing files as well.
#include <sys/stat.h>

#include <array>
#include <iostream>

#include "formats/core/backing_path.h"
#include "tools/img/commands.h"
#include "tools/img/opening.h"
#include "tools/img/text.h"
#include "tools/lib/program.h"

namespace dmu::img {

namespace {

using Json = control::Json;

struct Seen {
    std::string path;
    ImageInfo info;
    std::vector<Snapshot> snapshots;
    std::string backing_path;  // absolute; empty: none
    std::uint64_t occupied = 0;
    bool guessed = false;
};

Result<std::string> recognise(const std::string& path) {
    auto file = open_file(path, {.writable = false, .direct = false});
    if (!file) return file.error();
    const auto size = (*file)->size();
    if (!size) return size.error();
    std::vector<std::byte> head(std::min<std::uint64_t>(*size, 4096));
    auto done = (*file)->read(0, head);
    if (!done) return done.error();
    for (const auto* format : all_formats())
        if (format->recognises != nullptr && format->recognises(head)) return std::string(format->name);
    return std::string("raw");
}

// A bare path, or FORMAT:PATH.
Result<NamedImage> named_or_recognised(const std::string& text, bool& guessed) {
    const auto named = named_image(text);
    struct stat status {};
    guessed = !named && ::stat(text.c_str(), &status) == 0;
    if (!guessed) return named;
    const auto format = recognise(text);
    if (!format) return format.error();
    return NamedImage{{*format, {}, text}, find_format(*format)};
}

Result<Seen> look_at(const NamedImage& named, bool guessed) {
    auto opened = open_alone(named, false, Depth::info_only);
    if (!opened) return opened.error();
    auto& image = *opened->image;
    Seen seen{named.spec.path, image.info(), {}, "", image.files()[0]->occupied_bytes(), guessed};
    if (auto* snapshots = image.snapshots()) seen.snapshots = snapshots->list();
    if (seen.info.backing) {
        const auto path = resolve_backing_name(seen.info.backing->path, seen.path);
        if (path) seen.backing_path = *path;
    }
    return seen;
}

Json snapshot_json(const Snapshot& snapshot) {
    return {{"id", snapshot.id},
            {"name", snapshot.name},
            {"vm-state-size", snapshot.vm_state_bytes},
            {"date-sec", snapshot.created_seconds},
            {"date-nsec", snapshot.created_nanoseconds},
            {"vm-clock-sec", snapshot.guest_nanoseconds / 1000000000},
            {"vm-clock-nsec", snapshot.guest_nanoseconds % 1000000000}};
}

Json to_json(const Seen& seen) {
    const auto& info = seen.info;
    Json json = {{"filename", seen.path},
                 {"format", info.format},
                 {"virtual-size", info.virtual_size},
                 {"actual-size", seen.occupied},
                 {"dirty-flag", false}};
    if (info.cluster_size != 0) json["cluster-size"] = info.cluster_size;
    if (info.encrypted) json["encrypted"] = true;
    if (info.backing) {
        json["backing-filename"] = info.backing->path;
        if (!seen.backing_path.empty()) json["full-backing-filename"] = seen.backing_path;
        if (!info.backing->format.empty()) json["backing-filename-format"] = info.backing->format;
    }
    for (const auto& snapshot : seen.snapshots) json["snapshots"].push_back(snapshot_json(snapshot));
    // A key is a path: "extents/0/format".
    Json data;
    for (const auto& [key, value] : info.details) {
        Json& place = key == "dirty-flag" ? json[key] : data[Json::json_pointer("/" + key)];
        std::visit([&place](const auto& plain) { place = plain; }, value);
    }
    if (data.contains("bitmaps"))
        for (auto& bitmap : data["bitmaps"])
            if (!bitmap.contains("flags")) bitmap["flags"] = Json::array();
    if (!data.empty()) json["format-specific"] = {{"type", info.format}, {"data", data}};
    return json;
}

std::string to_text(const Seen& seen) {
    const auto& info = seen.info;
    std::string text = "image: " + seen.path + "\n";
    text += "file format: " + info.format + (seen.guessed ? " (by its content; name it where it is used)" : "") + "\n";
    text += "virtual size: " + size_text(info.virtual_size) + "\n";
    text += "disk size: " + size_text(seen.occupied) + "\n";
    if (info.cluster_size != 0) text += "cluster size: " + std::to_string(info.cluster_size) + "\n";
    if (info.encrypted) text += "encrypted: yes\n";
    if (info.backing) {
        text += "backing file: " + info.backing->path;
        if (!seen.backing_path.empty() && seen.backing_path != info.backing->path)
            text += " (actual path: " + seen.backing_path + ")";
        text += "\n";
        if (!info.backing->format.empty()) text += "backing file format: " + info.backing->format + "\n";
    }
    if (!seen.snapshots.empty()) text += "Snapshot list:\n" + snapshot_table(seen.snapshots);
    if (!info.details.empty()) text += "Format specific information:\n";
    return text + details_text(info.details);
}

// The chain's next image. Here, as nothing of it is handed on, its content may say what
// format it is where nothing else does.
Result<NamedImage> next_of(const Seen& seen, bool& guessed) {
    if (seen.backing_path.empty())
        return Error{Code::denied,
                     "'" + seen.path + "' names '" + seen.info.backing->path + "', which is no plain path"};
    const auto policy = tool_policy();
    if (!policy) return policy.error();
    // Whether it may be reached at all.
    const auto file = open_backing_path(seen.backing_path, seen.path, *policy);
    if (!file) return file.error();
    auto format = seen.info.backing->format;
    guessed = format.empty();
    if (guessed) {
        auto found = recognise(seen.backing_path);
        if (!found) return found.error();
        format = *found;
    }
    const auto* known = find_format(format);
    if (known == nullptr)
        return Error{Code::unsupported,
                     "backing file '" + seen.backing_path + "': there is no format '" + format + "'"};
    return NamedImage{{format, {}, seen.backing_path}, known};
}

Result<std::vector<Seen>> look_at_all(const std::string& text, bool chain) {
    bool guessed = false;
    auto named = named_or_recognised(text, guessed);
    constexpr std::size_t deepest = 64;
    std::vector<Seen> all;
    while (true) {
        if (!named) return named.error();
        auto seen = look_at(*named, guessed);
        if (!seen) return seen.error();
        all.push_back(std::move(*seen));
        if (!chain || !all.back().info.backing) return all;
        if (all.size() == deepest) return Error{Code::unsupported, "'" + text + "' has more than 64 layers, or a loop"};
        named = next_of(all.back(), guessed);
    }
}

int print(const std::vector<Seen>& all, bool json, bool chain) {
    if (json) {
        Json list = Json::array();
        for (const auto& seen : all) list.push_back(to_json(seen));
        print_json(chain ? list : list.front());
        return 0;
    }
    for (const auto& seen : all) std::cout << (&seen == &all.front() ? "" : "\n") << to_text(seen);
    return 0;
}

}  // namespace

void add_info(Commands& commands) {
    struct Options {
        std::string image;
        bool json = false, chain = false;
    };
    const auto options = std::make_shared<Options>();
    auto* command = commands.add("info", "what an image says of itself");
    command->add_option("IMAGE", options->image, "FORMAT:PATH, or only a path")->required();
    command->add_flag("--json", options->json, "as qemu-img's JSON");
    command->add_flag("--chain", options->chain, "also its backing files");
    commands.on(command, [options] {
        const auto all = look_at_all(options->image, options->chain);
        return all ? print(*all, options->json, options->chain) : failed(all.error());
    });
}

}  // namespace dmu::img
