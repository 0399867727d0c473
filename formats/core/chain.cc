// SPDX-License-Identifier: GPL-2.0-or-later
#include "formats/core/chain.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>

#include "formats/core/backing_path.h"
#include "formats/core/image_neighbours.h"

namespace dmu {

namespace {

constexpr const char* backing_option = "backing-format";
constexpr const char* backing_key_option = "backing-key-file";

// What makes two open files the same one; of memory (tests) there is only the name.
struct Identity {
    std::uint64_t device = 0, number = 0;
    bool is_block = false;
    std::string name;
    bool operator==(const Identity&) const = default;
};

Identity identity_of(const BlockFile& file) {
    struct stat status {};
    if (file.descriptor() < 0 || ::fstat(file.descriptor(), &status) != 0) return {0, 0, false, file.name()};
    if (S_ISBLK(status.st_mode)) return {status.st_rdev, 0, true, ""};
    return {status.st_dev, status.st_ino, false, ""};
}

Result<const Format*> format_named(const std::string& name, const std::string& where) {
    if (const auto* format = find_format(name)) return format;
    return Error{Code::invalid, where + ": there is no format '" + name + "'; known are " + format_names()};
}

// "A,B,C": an element for each layer from the top, the last one for all below.
class ByLayer {
public:
    void parse(const std::string& list) {
        elements_.clear();
        for (std::size_t at = 0; at <= list.size();) {
            const auto end = std::min(list.find(',', at), list.size());
            elements_.push_back(list.substr(at, end - at));
            at = end + 1;
        }
    }
    const std::vector<std::string>& elements() const { return elements_; }
    // Empty: nothing says.
    std::string of(unsigned overlay) const {
        return elements_.empty() ? "" : elements_[std::min<std::size_t>(overlay, elements_.size() - 1)];
    }

private:
    std::vector<std::string> elements_;
};

// The formats of backing files that the specification gives, by layer of the overlay.
class BackingFormats {
public:
    Status parse(const std::string& list) {
        by_layer_.parse(list);
        for (const auto& element : by_layer_.elements()) {
            const auto format = format_named(element, "option 'backing-format=" + list + "'");
            if (!format) return format.error();
        }
        return ok();
    }

    // Empty: nothing says.
    std::string of(unsigned overlay, const PathPolicy& policy, const std::string& backing_path) const {
        if (!by_layer_.elements().empty()) return by_layer_.of(overlay);
        if (!policy.backing_format.empty()) return policy.backing_format;
        return backing_path.ends_with(".qcow") ? "qcow" : "";
    }

private:
    ByLayer by_layer_;
};

Result<const Format*> backing_format(const BackingReference& reference, const BackingFormats& formats, unsigned overlay,
                                     const PathPolicy& policy, const std::string& backing_path, const Image& image) {
    const auto& overlay_path = image.files()[0]->name();
    const auto name = !reference.format.empty() ? reference.format : formats.of(overlay, policy, backing_path);
    if (name.empty())
        return Error{Code::denied, "image '" + overlay_path + "' does not say what format its backing file '" +
                                       backing_path + "' has, and it is never guessed; name it: '" +
                                       image.info().format + ";backing-format=raw:" + overlay_path +
                                       "' (or another of " + format_names() + ")"};
    return format_named(name, "backing file of '" + overlay_path + "'");
}

struct Opening {
    const PathPolicy& policy;
    Chain::Opener opener;
    void* context;

    Result<std::unique_ptr<BlockFile>> file(unsigned layer, const std::string& path, const std::string& overlay_path,
                                            OpenMode mode) const {
        if (opener != nullptr) {
            auto file = opener(context, {layer, 0, path, mode, false});
            if (!file || *file) return file;
        }
        return layer == 0 ? open_image_path(path, mode, policy) : open_backing_path(path, overlay_path, policy);
    }
};

// An overlay may say which state of its backing file it was made of.
Status check_identity(const BackingReference& reference, const ImageInfo& info, const std::string& path,
                      const std::string& overlay_path) {
    if (reference.identity.empty() || reference.identity == info.identity) return ok();
    return Error{Code::corrupt, "'" + path + "' is not what its overlay '" + overlay_path +
                                    "' was made of: its content identity is '" + info.identity +
                                    "', the overlay wants '" + reference.identity +
                                    "'; it was written to since, or is another image"};
}

}  // namespace

Chain::Chain() = default;
Chain::~Chain() = default;

void Chain::set_opener(Opener opener, void* context) {
    for (auto& layer : layers_) layer.neighbours->set_opener(opener, context);
}

Result<std::unique_ptr<Chain>> Chain::open(const ImageSpec& spec, bool writable, const PathPolicy& policy,
                                           Opener opener, void* context) {
    OpenOptions options;
    options.writable = writable;
    options.cache_bytes = policy.cache_bytes;
    BackingFormats formats;
    ByLayer keys;
    for (const auto& [key, value] : spec.options) {
        if (key == backing_key_option) {
            keys.parse(value);
            continue;
        }
        if (key != backing_option) {
            options.options.emplace_back(key, value);
            continue;
        }
        auto parsed = formats.parse(value);
        if (!parsed) return parsed.error();
    }
    auto format = format_named(spec.format, "disk specification '" + spec.text() + "'");
    if (!format) return format.error();

    const Opening opening{policy, opener, context};
    auto chain = std::make_unique<Chain>();
    chain->writable_ = writable;
    std::optional<BackingReference> reference;
    std::vector<Identity> seen;
    std::string path = spec.path, overlay_path;
    for (unsigned layer = 0;; layer++) {
        auto file = opening.file(layer, path, overlay_path, {options.writable, true});
        if (!file) return file.error();
        auto identity = identity_of(**file);
        if (std::find(seen.begin(), seen.end(), identity) != seen.end())
            return Error{Code::corrupt, "'" + path + "' is its own backing file, by way of '" + overlay_path + "'"};
        seen.push_back(std::move(identity));
        auto neighbours = std::make_unique<ImageNeighbours>(path, policy, options.writable, layer);
        neighbours->set_opener(opener, context);
        options.neighbours = neighbours.get();
        auto image = (*format)->open(std::move(*file), options);
        if (!image) return layer == 0 ? image.error() : image.error().in("backing file of '" + overlay_path + "'");
        neighbours->set_opener(nullptr, nullptr);
        if (reference) {
            auto same = check_identity(*reference, (*image)->info(), path, overlay_path);
            if (!same) return same.error();
        }
        chain->layers_.push_back({std::move(neighbours), std::move(*image), path});

        const auto& top = *chain->layers_.back().image;
        const auto& backing = top.info().backing;
        if (!backing) return chain;
        reference = backing;
        if (chain->depth() >= policy.max_depth)
            return Error{Code::unsupported, "image '" + spec.path + "' has more than " +
                                                std::to_string(policy.max_depth) + " layers; merge some"};
        auto next = resolve_backing_name(backing->path, path);
        if (!next) return next.error();
        format = backing_format(*backing, formats, layer, policy, *next, top);
        if (!format) return format.error();
        overlay_path = std::exchange(path, std::move(*next));
        options = {};
        if (auto key = keys.of(layer); !key.empty()) options.options.emplace_back("key-file", std::move(key));
    }
}

std::vector<ChainFile> Chain::files() const {
    std::vector<ChainFile> all;
    for (unsigned layer = 0; layer < layers_.size(); layer++) {
        const auto& files = layers_[layer].image->files();
        for (unsigned file = 0; file < files.size(); file++)
            if (files[file] != nullptr)
                all.push_back({layer, file, files[file], file == 0 ? layers_[layer].path : files[file]->name()});
    }
    return all;
}

namespace {

void append(std::vector<Mapping>& out, const Mapping& mapping) {
    if (mapping.length == 0) return;
    if (!out.empty()) {
        auto& last = out.back();
        const bool has_host = mapping.kind == MappingKind::linear || mapping.kind == MappingKind::cow;
        if (last.kind == mapping.kind && last.writable == mapping.writable && last.leasable == mapping.leasable &&
            (!has_host || (last.layer == mapping.layer && last.file == mapping.file &&
                           last.host.bytes + last.length == mapping.host.bytes)) &&
            (mapping.kind != MappingKind::opaque || last.layer == mapping.layer)) {
            last.length += mapping.length;
            return;
        }
    }
    out.push_back(mapping);
}

Mapping zeros(std::uint64_t start, std::uint64_t end, bool leasable) {
    return {{start}, end - start, MappingKind::zero, 0, 0, {}, false, leasable};
}

}  // namespace

// What one layer says by itself. What the top image holds but may not be written in place
// is copied from there on a write.
Mapping Chain::mapping_of(const Extent& extent, std::uint64_t end, unsigned layer, bool leasable) const {
    Mapping mapping = zeros(extent.start.bytes, end, leasable);
    if (extent.kind == ExtentKind::zero) return mapping;
    mapping.layer = layer;
    if (extent.kind == ExtentKind::compressed) {
        mapping.kind = MappingKind::opaque;
        return mapping;
    }
    mapping.writable = layer == 0 && extent.writable;
    const bool in_place = layer == 0 && (mapping.writable || !writable_);
    mapping.kind = in_place ? MappingKind::linear : MappingKind::cow;
    if (in_place) mapping.leasable = true;
    mapping.file = extent.file;
    mapping.host = extent.host;
    return mapping;
}

// Appends all of need and what comes without further I/O, up to limit; where it ended.
Result<std::uint64_t> Chain::resolve(unsigned layer, GuestRange need, Within within, std::vector<Mapping>& out) {
    const auto extents = layers_[layer].image->look_up(need, within.ahead);
    if (!extents) return extents.error();
    auto at = need.start.bytes;
    for (const auto& extent : *extents) {
        const auto end = std::min(at + extent.length, within.limit);
        if (at >= within.limit) break;
        const bool leasable = layer == 0 ? extent.leasable : within.leasable;
        if (extent.kind != ExtentKind::unallocated) {
            append(out, mapping_of(extent, end, layer, leasable));
            at = end;
            continue;
        }
        const bool is_last = layer + 1 == layers_.size();
        // A backing file that is shorter than its overlay reads as zeros.
        const auto lower_end = is_last ? 0 : std::min(end, layers_[layer + 1].image->info().virtual_size);
        if (at < lower_end) {
            if (at >= need.end()) return at;
            const auto lower_need = std::min(need.end(), lower_end);
            const auto covered = resolve(layer + 1, {{at}, lower_need - at}, {lower_end, leasable, within.ahead}, out);
            if (!covered) return covered;
            at = *covered;
            if (at < lower_end) return at;
        }
        append(out, zeros(at, end, leasable));
        at = end;
    }
    return at;
}

Result<std::vector<Mapping>> Chain::look_up(GuestRange range, LookAhead ahead) {
    std::vector<Mapping> out;
    const auto covered = resolve(0, range, {top().info().virtual_size, true, ahead}, out);
    if (!covered) return covered.error();
    return out;
}

// Guest data of one file: whole sectors are decrypted, and a part of one is cut out of it.
Status Chain::read_data(const Mapping& mapping, std::span<std::byte> into) {
    auto& file = this->file(mapping.layer, mapping.file);
    const auto* cipher = layers_[mapping.layer].image->cipher();
    if (cipher == nullptr || into.empty()) return file.read(mapping.host.bytes, into);
    const auto head = mapping.start.bytes % sector_size;
    const auto whole = align_up(head + into.size(), sector_size);
    std::vector<std::byte> bounce(whole == into.size() ? 0 : whole);
    const auto sectors = bounce.empty() ? into : std::span(bounce);
    auto done = file.read(mapping.host.bytes - head, sectors);
    const auto at = cipher->by() == CipherBy::guest_offset ? mapping.start.bytes : mapping.host.bytes;
    if (done) done = cipher->decrypt(at - head, sectors);
    if (done && !bounce.empty()) std::memcpy(into.data(), bounce.data() + head, into.size());
    return done;
}

Status Chain::read_mapping(const Mapping& mapping, std::span<std::byte> into) {
    switch (mapping.kind) {
        case MappingKind::linear:
        case MappingKind::cow:
            return read_data(mapping, into);
        case MappingKind::zero:
            std::memset(into.data(), 0, into.size());
            return ok();
        case MappingKind::opaque:
            return layers_[mapping.layer].image->read_compressed(mapping.start, into);
    }
    return ok();
}

Status Chain::write_data(unsigned file, HostOffset host, GuestOffset start, std::span<const std::byte> from) {
    auto& to = this->file(0, file);
    const auto* cipher = top().cipher();
    if (cipher == nullptr) return to.write(host.bytes, from);
    std::vector<std::byte> secret(from.begin(), from.end());
    const auto at = cipher->by() == CipherBy::guest_offset ? start.bytes : host.bytes;
    auto done = cipher->encrypt(at, secret);
    return done ? to.write(host.bytes, secret) : done;
}

Status Chain::read(GuestOffset start, std::span<std::byte> into) {
    if (into.empty()) return ok();
    const auto mappings = look_up({start, into.size()});
    if (!mappings) return mappings.error();
    for (const auto& mapping : *mappings) {
        const auto part = into.first(std::min<std::uint64_t>(into.size(), mapping.length));
        auto done = read_mapping(mapping, part);
        if (!done) return done;
        into = into.subspan(part.size());
        if (into.empty()) break;
    }
    return ok();
}

}  // namespace dmu
