// SPDX-License-Identifier: GPL-2.0-or-later
#include "formats/core/image_neighbours.h"

#include <sys/stat.h>

#include "formats/core/backing_path.h"

namespace dmu {

namespace {

bool is_image_itself(const BlockFile& file, const std::string& image_path) {
    struct stat image {
    }, other{};
    if (file.descriptor() < 0) return file.name() == image_path;
    return ::stat(image_path.c_str(), &image) == 0 && ::fstat(file.descriptor(), &other) == 0 &&
           image.st_dev == other.st_dev && image.st_ino == other.st_ino;
}

}  // namespace

Result<std::unique_ptr<BlockFile>> ImageNeighbours::ask_opener(const std::string& path, OpenMode mode, bool create) {
    if (opener_ == nullptr) return std::unique_ptr<BlockFile>();
    return opener_(context_, {layer_, next_, path, mode, create});
}

Result<std::unique_ptr<BlockFile>> ImageNeighbours::open(const std::string& name, OpenMode mode) {
    if (mode.writable && !writable_)
        return Error{Code::denied, "file '" + name + "' of '" + image_path_ + "': the image is open for reading only"};
    const auto path = resolve_backing_name(name, image_path_, NameUse::data_file);
    if (!path) return path.error();
    auto file = ask_opener(*path, mode, false);
    if (file && !*file) file = open_backing_path(*path, image_path_, policy_, mode, NameUse::data_file);
    if (!file) return file;
    if (is_image_itself(**file, image_path_))
        return Error{Code::corrupt, "image '" + image_path_ + "' names itself ('" + name + "') as a file of its data"};
    next_++;
    return file;
}

Result<std::unique_ptr<BlockFile>> ImageNeighbours::create(const std::string& name) {
    if (!writable_)
        return Error{Code::denied, "file '" + name + "' of '" + image_path_ + "': the image is open for reading only"};
    const auto path = resolve_backing_name(name, image_path_, NameUse::data_file);
    if (!path) return path.error();
    const OpenMode mode{true, true};
    auto file = ask_opener(*path, mode, true);
    if (file && !*file) file = create_data_file(*path, image_path_, mode);
    if (file) next_++;
    return file;
}

}  // namespace dmu
