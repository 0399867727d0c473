// SPDX-License-Identifier: GPL-2.0-or-later
// Raw images and block devices that a log is played onto.
#pragma once

#include "tools/debug/offline/contents.h"

namespace dmu::debug {

class ImageFile {
public:
    enum class Mode { read, write, create };

    // create: a regular file, made if there is none, emptied if there is; devices are only opened.
    static Result<ImageFile> open(const std::string& path, Mode mode);
    ~ImageFile();
    ImageFile(ImageFile&& other) noexcept;
    ImageFile& operator=(ImageFile&&) = delete;

    int descriptor() const { return descriptor_; }
    const std::string& path() const { return path_; }
    bool is_device() const { return device_; }
    std::uint64_t sectors() const { return sectors_; }

    Status read(std::uint64_t offset, std::span<std::byte> into) const;
    Status write(std::uint64_t offset, std::span<const std::byte> from);
    // A hole where it can be one.
    Status zero(std::uint64_t offset, std::uint64_t length);
    // Of a regular file.
    Status resize(std::uint64_t sectors);
    Status sync();
    // Makes this the same as the other: shares its blocks where the file system can, else
    // copies, leaving out its holes.
    Status copy_of(const ImageFile& other);

private:
    ImageFile(std::string path, int descriptor) : path_(std::move(path)), descriptor_(descriptor) {}
    Status copy_data(const ImageFile& other);

    std::string path_;
    int descriptor_;
    bool device_ = false;
    std::uint64_t sectors_ = 0;
};

// Writes what the log's requests left. Code::invalid: the image is smaller than the device was.
Status write_contents(const LogReader& log, const Contents& contents, ImageFile& image);
// A fresh copy of base with that.
Result<ImageFile> make_image(const LogReader& log, const Contents& contents, const std::string& base,
                             const std::string& path);

}  // namespace dmu::debug
