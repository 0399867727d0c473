// SPDX-License-Identifier: GPL-2.0-or-later
// An image with its backing files, joined: what the guest sees.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "image.h"
#include "spec.h"

namespace dmu {

struct PathPolicy {
    // Directories (beside the image's own) that names inside images may reach.
    std::vector<std::string> roots;
    // Where not empty: the image named by the configuration must lie below one of these.
    std::vector<std::string> image_roots;
    unsigned max_depth = 64;
    // Formats of backing files whose overlay does not say: by the configuration
    // ("backing-format=raw" in the specification); empty: refuse.
    std::string backing_format;
    std::uint64_t cache_bytes = default_cache_bytes;  // of each layer, see OpenOptions
};

enum class MappingKind {
    linear,  // at host of (layer, file); a write goes there too if writable
    zero,    // reads as zeros; a write needs a place
    cow,     // reads from host of (layer, file), which may be in the top layer too; a write needs a place
    opaque,  // compressed: readable only through Chain::read
};

struct Mapping {
    GuestOffset start;
    std::uint64_t length = 0;
    MappingKind kind = MappingKind::zero;
    unsigned layer = 0;  // 0: the top image
    unsigned file = 0;
    HostOffset host;
    bool writable = false;
    bool leasable = true;  // zero, cow, opaque: Extent::leasable of the top image
};

// One file of the chain with where it came from, for locks, destinations, listings.
struct ChainFile {
    unsigned layer;
    unsigned file;
    BlockFile* handle;
    std::string path;
};

class ImageNeighbours;

class Chain {
public:
    Chain();
    ~Chain();
    // How a layer's file comes to be open: by path, or from a predecessor's descriptor.
    // Without one, and where it returns a null pointer, the chain opens the file itself,
    // with every check of the policy. What an opener returns is trusted.
    struct FileRequest {
        unsigned layer;
        // 0: the image itself. Else a name inside it, and its place in Image::files() while
        // the image is being opened.
        unsigned file;
        const std::string& path;  // absolute where it comes from inside an image
        OpenMode mode;
        bool create;  // a fresh file; Code::busy: there is one
    };
    using Opener = Result<std::unique_ptr<BlockFile>> (*)(void* context, const FileRequest& request);

    // Opens the image that the specification names as named, its backing files under
    // the policy, read-only. Refuses loops, missing files, chains too deep.
    //
    // The format of a backing file is, in this order: what the overlay's header says;
    // the option "backing-format=F[,F...]" of the specification, an element for each
    // layer from the top, the last one for all below; policy.backing_format; qcow for a
    // name that ends in ".qcow" (a name is the administrator's choice; content, which
    // may be a guest's, is never looked at). Otherwise Code::denied.
    //
    // The key files of encrypted backing files: "backing-key-file=FILE[,FILE...]", likewise; an
    // empty element for a layer without. All other options go to the top image's format.
    static Result<std::unique_ptr<Chain>> open(const ImageSpec& spec, bool writable, const PathPolicy& policy,
                                               Opener opener = nullptr, void* context = nullptr);

    // For the files that formats open later on; nobody is asked for them unless this is called.
    void set_opener(Opener opener, void* context);

    bool writable() const { return writable_; }
    Image& top() { return *layers_.front().image; }
    const Image& top() const { return *layers_.front().image; }
    std::size_t depth() const { return layers_.size(); }
    std::vector<ChainFile> files() const;
    // layer < depth(), index < files of that layer.
    BlockFile& file(unsigned layer, unsigned index) { return *layers_[layer].image->files()[index]; }
    const Image& layer(unsigned index) const { return *layers_[index].image; }

    // As Image::look_up, through the layers.
    Result<std::vector<Mapping>> look_up(GuestRange range, LookAhead ahead = LookAhead::table);

    // Guest bytes, whatever they lie in; for the stand-in, tools and tests.
    Status read(GuestOffset start, std::span<std::byte> into);
    // The same from the start of a mapping that look_up() gave, or a part of it: decrypted.
    Status read_mapping(const Mapping& mapping, std::span<std::byte> into);
    // Guest bytes into a place of the top image, encrypted where it is: then whole sectors.
    Status write_data(unsigned file, HostOffset host, GuestOffset start, std::span<const std::byte> from);

private:
    struct Layer {
        std::unique_ptr<ImageNeighbours> neighbours;  // outlives the image
        std::unique_ptr<Image> image;
        std::string path;
    };

    // What the top image says of the range that a lower layer is asked for.
    struct Within {
        std::uint64_t limit;
        bool leasable;
        LookAhead ahead;
    };
    Result<std::uint64_t> resolve(unsigned layer, GuestRange need, Within within, std::vector<Mapping>& out);
    Mapping mapping_of(const Extent& extent, std::uint64_t end, unsigned layer, bool leasable) const;
    Status read_data(const Mapping& mapping, std::span<std::byte> into);

    bool writable_ = false;

    std::vector<Layer> layers_;
};

}  // namespace dmu
