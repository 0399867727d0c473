// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/lib/image_commands.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>

#include "formats/core/chain.h"
#include "formats/core/image_neighbours.h"
#include "formats/core/spec.h"
#include "xen-backend/control/config.h"

namespace dmu {
namespace fs = std::filesystem;

Result<NamedImage> named_image(const std::string& text) {
    auto spec = parse_spec(text);
    if (!spec) return spec.error();
    const Format* format = find_format(spec->format);
    if (!format)
        return Error{Code::unsupported, "there is no format '" + spec->format + "'; there are " + format_names()};
    return NamedImage{std::move(*spec), format};
}

// The key of a writable attach: the inode of the top image, or the device.
Status refuse_attached(const std::string& path) {
    struct stat info;
    if (stat(path.c_str(), &info) != 0) return system_error("cannot examine the image " + path);
    char key[64];
    if (S_ISBLK(info.st_mode))
        std::snprintf(key, sizeof key, "block-%jx", static_cast<std::uintmax_t>(info.st_rdev));
    else
        std::snprintf(key, sizeof key, "%jx-%jx", static_cast<std::uintmax_t>(info.st_dev),
                      static_cast<std::uintmax_t>(info.st_ino));
    const auto state = control::read_state(control::state_path(key));
    if (state && state->writable)
        return Error{Code::busy, path + " is attached for writing as " + state->name +
                                     ", its metadata is in motion; detach it first (or --force, which may report what "
                                     "is no fault)"};
    return ok();
}

namespace {

// Removes a file that was not finished.
class Unfinished {
public:
    explicit Unfinished(std::string path) : path_(std::move(path)) {}
    ~Unfinished() {
        if (!path_.empty()) unlink(path_.c_str());
    }
    Unfinished(const Unfinished&) = delete;
    Unfinished& operator=(const Unfinished&) = delete;
    void keep() { path_.clear(); }

private:
    std::string path_;
};

// As the new image will find it: relative to the image's own directory.
std::string backing_path(const std::string& image, const std::string& backing) {
    const fs::path path(backing);
    return path.is_absolute() ? backing : (fs::path(image).parent_path() / path).string();
}

}  // namespace

PathPolicy open_policy() {
    PathPolicy policy;
    policy.roots = {"/"};
    return policy;
}

Result<ImageSpec> backing_spec(const std::string& backing, const std::string& image_path) {
    auto named = named_image(backing);
    if (!named) return named.error().in("backing image");
    named->spec.path = backing_path(image_path, named->spec.path);
    return named->spec;
}

Result<Backing> open_backing(const std::string& backing, const std::string& image_path) {
    const auto named = named_image(backing);
    if (!named) return named.error().in("backing image");
    const auto spec = backing_spec(backing, image_path);
    if (!spec) return spec.error();
    const auto chain = Chain::open(*spec, false, open_policy());
    if (!chain) return chain.error().in("backing image");
    const auto& info = (*chain)->top().info();
    return Backing{{named->spec.path, named->spec.format, info.identity}, info.virtual_size};
}

namespace {

// The files that come with an image; those that were made go where it is not finished.
class NewNeighbours final : public Neighbours {
public:
    explicit NewNeighbours(const std::string& image_path) : all_(image_path, PathPolicy{}, true) {}
    ~NewNeighbours() override {
        for (const auto& path : made_) unlink(path.c_str());
    }
    Result<std::unique_ptr<BlockFile>> open(const std::string& name, OpenMode mode) override {
        return all_.open(name, mode);
    }
    Result<std::unique_ptr<BlockFile>> create(const std::string& name) override {
        auto file = all_.create(name);
        if (file) made_.push_back((*file)->name());
        return file;
    }
    void keep() { made_.clear(); }

private:
    ImageNeighbours all_;
    std::vector<std::string> made_;
};

Status write_image(const NamedImage& named, CreateOptions options) {
    const std::string& path = named.spec.path;
    const int fd = open(path.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644);
    if (fd < 0 && errno == EEXIST) return Error{Code::busy, path + " exists already; it is not overwritten"};
    if (fd < 0) return system_error("cannot create " + path);
    close(fd);
    Unfinished unfinished(path);
    NewNeighbours neighbours(path);
    options.neighbours = &neighbours;
    auto file = open_file(path, {.writable = true, .direct = false});
    if (!file) return file.error();
    if (auto status = named.format->create(**file, options); !status) return status;
    if (auto status = (*file)->sync(); !status) return status;
    unfinished.keep();
    neighbours.keep();
    return ok();
}

}  // namespace

Result<CheckReport> check_image(const std::string& text, bool force) {
    const auto named = named_image(text);
    if (!named) return named.error();
    if (!named->format->check)
        return Error{Code::unsupported, "the format " + named->spec.format + " has no metadata to check"};
    if (!force)
        if (auto status = refuse_attached(named->spec.path); !status) return status.error();
    // Its data files and extents are where an attached disk may have them.
    const auto config = read_config(config_path());
    if (!config) return config.error();
    auto file = open_file(named->spec.path, {.writable = false, .direct = false});
    if (!file) return file.error();
    ImageNeighbours neighbours(named->spec.path, config->paths, false);
    return named->format->check(**file, {Repair::none, &neighbours});
}

int check_status(const CheckReport& report) {
    if (report.corruptions) return 2;
    return report.leaks ? 3 : 0;
}

std::string check_text(const CheckReport& report) {
    std::string text;
    for (const auto& message : report.messages) text += message + "\n";
    const std::uint64_t counted = report.corruptions + report.leaks;
    if (counted > report.messages.size() && !report.messages.empty())
        text += "(" + std::to_string(counted - report.messages.size()) + " more)\n";
    if (report.corruptions) text += "corrupt: " + std::to_string(report.corruptions) + " faults\n";
    if (report.leaks) text += "leaked: " + std::to_string(report.leaks) + " clusters; no data is concerned\n";
    if (!counted) text += "no faults\n";
    return text + std::to_string(report.allocated) + " of " + std::to_string(report.total) + " clusters allocated\n";
}

control::Json check_json(const CheckReport& report) {
    return {{"corruptions", report.corruptions},
            {"leaks", report.leaks},
            {"allocated", report.allocated},
            {"total", report.total},
            {"messages", report.messages}};
}

Status create_image(const NewImage& image) {
    const auto named = named_image(image.spec);
    if (!named) return named.error();
    if (!named->format->create)
        return Error{Code::unsupported, "images of the format " + named->spec.format + " cannot be made"};
    CreateOptions options;
    options.cluster_size = image.cluster_size;
    options.options = named->spec.options;
    options.options.insert(options.options.end(), image.options.begin(), image.options.end());
    if (!image.backing.empty()) {
        auto backing = open_backing(image.backing, named->spec.path);
        if (!backing) return backing.error();
        options.backing = backing->reference;
        options.virtual_size = backing->size;
    } else if (!image.size) {
        return Error{Code::invalid, "the size is missing; without --backing it has to be given, as 10G"};
    }
    if (image.size) options.virtual_size = *image.size;
    return write_image(*named, options);
}

}  // namespace dmu
