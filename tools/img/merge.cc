// SPDX-License-Identifier: GPL-2.0-or-later
// dmu-img commit and rebase: between an image and its backing file.
#include <algorithm>
#include <iostream>

#include "tools/img/commands.h"
#include "tools/img/copying.h"
#include "tools/img/opening.h"
#include "tools/img/text.h"
#include "tools/lib/program.h"

namespace dmu::img {

namespace {

// ---------------------------------------------------------------- commit ---

// How the backing file is named, as the overlay's chain opened it.
ImageSpec spec_below(const Chain& chain, const ImageSpec& spec) {
    ImageSpec below{chain.layer(1).info().format, {}, chain.files()[chain.top().files().size()].path};
    for (const auto& [key, value] : spec.options) {
        const auto comma = value.find(',');
        const auto rest = comma == std::string::npos ? value : value.substr(comma + 1);
        if (key == "backing-format") below.options.emplace_back(key, rest);
        if (key != "backing-key-file") continue;
        if (auto own = value.substr(0, comma); !own.empty()) below.options.emplace_back("key-file", own);
        below.options.emplace_back(key, rest);
    }
    return below;
}

Status copy_piece(Chain& overlay, StandIn& target, GuestRange range) {
    std::vector<std::byte> buffer(std::min(range.length, piece_bytes));
    for (auto at = range.start.bytes; at < range.end();) {
        const auto piece = std::span(buffer).first(std::min<std::uint64_t>(buffer.size(), range.end() - at));
        auto done = overlay.read({at}, piece);
        if (done) done = target.write({at}, piece);
        if (!done) return done;
        at += piece.size();
    }
    return ok();
}

// All that the overlay holds itself.
Status copy_down(Chain& overlay, Chain& below) {
    StandIn target(below);
    const auto size = overlay.top().info().virtual_size;
    std::uint64_t written = 0;
    for (std::uint64_t at = 0; at < size;) {
        const auto extents = overlay.top().look_up({{at}, std::min(size - at, look_bytes)});
        if (!extents) return extents.error();
        for (const auto& extent : *extents) {
            const GuestRange range{{at}, std::min(extent.length, size - at)};
            at = range.end();
            if (extent.kind == ExtentKind::unallocated) continue;
            auto done = extent.kind == ExtentKind::zero ? write_zeros(target, below.top().info(), range)
                                                        : copy_piece(overlay, target, range);
            written += range.length;
            if (done && written >= look_bytes / 4) done = target.flush();
            if (written >= look_bytes / 4) written = 0;
            if (!done) return done;
        }
    }
    return target.flush();
}

// An overlay that names its backing file's content by an identity gets the new one.
Status follow_identity(const NamedImage& named, Chain& below) {
    const auto identity = below.top().info().identity;
    auto overlay = open_alone(named, true, Depth::whole);
    if (!overlay) return overlay.error();
    auto backing = overlay->image->info().backing;
    backing->identity = identity;
    auto done = overlay->image->set_backing(backing);
    return done ? close_image(*overlay->image) : done;
}

Status commit(const std::string& text) {
    const auto named = named_image(text);
    if (!named) return named.error();
    auto free = refuse_attached(named->spec.path);
    if (!free) return free;
    auto overlay = open_chain(named->spec, false, Locking::top);
    if (!overlay) return overlay.error();
    if ((*overlay)->depth() == 1) return Error{Code::invalid, "'" + named->spec.path + "' has no backing file"};
    const bool identified = !(*overlay)->top().info().backing->identity.empty();
    auto below = open_chain(spec_below(**overlay, named->spec), true);
    if (!below) return below.error();
    const auto size = (*overlay)->top().info().virtual_size;
    auto done = ok();
    if ((*below)->top().info().virtual_size < size) done = (*below)->top().resize(size);
    if (done) done = copy_down(**overlay, **below);
    if (done) done = close_image((*below)->top());
    if (!done || !identified) return done;
    overlay->reset();
    return follow_identity(*named, **below);
}

// ---------------------------------------------------------------- rebase ---

struct RebaseArguments {
    std::string image, backing;
    bool unsafe = false;
};

Status read_padded(Chain* chain, std::uint64_t at, std::span<std::byte> into) {
    const auto size = chain == nullptr ? 0 : chain->top().info().virtual_size;
    const auto there = at < size ? std::min<std::uint64_t>(into.size(), size - at) : 0;
    std::fill(into.begin() + static_cast<std::ptrdiff_t>(there), into.end(), std::byte{0});
    return there == 0 ? ok() : chain->read({at}, into.first(there));
}

// What shows through the image and would look otherwise over the other backing file is
// written into the image.
Status keep_differences(Chain& chain, Chain* other, GuestRange range, StandIn& target) {
    const auto grain = std::max<std::uint64_t>(chain.top().info().grain, 4096);
    std::vector<std::byte> old_bytes(piece_bytes), new_bytes(piece_bytes);
    for (auto at = range.start.bytes; at < range.end();) {
        const auto bytes = std::min(range.end() - at, align_down(at, piece_bytes) + piece_bytes - at);
        const auto was = std::span(old_bytes).first(bytes), is = std::span(new_bytes).first(bytes);
        auto done = chain.read({at}, was);
        if (done) done = read_padded(other, at, is);
        for (std::uint64_t from = 0; done && from < bytes;) {
            const auto unit = std::min(bytes - from, align_down(at + from, grain) + grain - at - from);
            if (!std::equal(was.begin() + static_cast<std::ptrdiff_t>(from),
                            was.begin() + static_cast<std::ptrdiff_t>(from + unit),
                            is.begin() + static_cast<std::ptrdiff_t>(from)))
                done = target.write({at + from}, was.subspan(from, unit));
            from += unit;
        }
        if (!done) return done;
        at += bytes;
    }
    return ok();
}

// The extents are looked at before the writes: those change nothing of what comes after.
Status keep_all(Chain& chain, Chain* other) {
    StandIn target(chain);
    const auto size = chain.top().info().virtual_size;
    for (std::uint64_t at = 0; at < size;) {
        const auto extents = chain.top().look_up({{at}, std::min(size - at, look_bytes)});
        if (!extents) return extents.error();
        for (const auto& extent : *extents) {
            const GuestRange range{{at}, std::min(extent.length, size - at)};
            at = range.end();
            if (extent.kind != ExtentKind::unallocated) continue;
            auto done = keep_differences(chain, other, range, target);
            if (!done) return done;
        }
        auto done = target.flush();
        if (!done) return done;
    }
    return target.flush();
}

Result<std::optional<BackingReference>> new_reference(const RebaseArguments& arguments, const NamedImage& named) {
    if (arguments.backing.empty()) return std::optional<BackingReference>();
    if (!arguments.unsafe) {
        auto backing = open_backing(arguments.backing, named.spec.path);
        if (!backing) return backing.error();
        return std::optional(backing->reference);
    }
    const auto backing = named_image(arguments.backing);
    if (!backing) return backing.error();
    return std::optional(BackingReference{backing->spec.path, backing->spec.format, ""});
}

Status rebase_unsafe(const NamedImage& named, const RebaseArguments& arguments,
                     std::optional<BackingReference> reference) {
    auto opened = open_alone(named, true, Depth::whole);
    if (!opened) return opened.error();
    // A format that names the content, too, wants to know it.
    if (reference && !opened->image->info().identity.empty()) {
        auto backing = open_backing(arguments.backing, named.spec.path);
        if (!backing) return backing.error();
        reference = backing->reference;
    }
    auto done = opened->image->set_backing(reference);
    return done ? close_image(*opened->image) : done;
}

Status rebase(const RebaseArguments& arguments) {
    const auto named = named_image(arguments.image);
    if (!named) return named.error();
    const auto reference = new_reference(arguments, *named);
    if (!reference) return reference.error();
    if (arguments.unsafe) return rebase_unsafe(*named, arguments, *reference);
    auto chain = open_chain(named->spec, true);
    if (!chain) return chain.error();
    std::unique_ptr<Chain> other;
    if (*reference) {
        const auto spec = backing_spec(arguments.backing, named->spec.path);
        if (!spec) return spec.error();
        auto opened = Chain::open(*spec, false, open_policy());
        if (!opened) return opened.error();
        other = std::move(*opened);
    }
    auto done = keep_all(**chain, other.get());
    if (done) done = (*chain)->top().set_backing(*reference);
    return done ? close_image((*chain)->top()) : done;
}

}  // namespace

void add_commit(Commands& commands) {
    const auto image = std::make_shared<std::string>();
    auto* command = commands.add("commit", "write what an image holds into its backing file");
    command->add_option("FORMAT:PATH", *image, "the image; it stays as it is")->required();
    commands.on(command, [image] { return ended(commit(*image)); });
}

void add_rebase(Commands& commands) {
    const auto arguments = std::make_shared<RebaseArguments>();
    auto* command = commands.add("rebase", "give an image another backing file; its content stays");
    command->add_option("FORMAT:PATH", arguments->image, "the image")->required();
    command->add_option("-b,--backing", arguments->backing, "the new one, as raw:base.raw; without it: none")
        ->type_name("FORMAT:PATH");
    command->add_flag("-u,--unsafe", arguments->unsafe, "only the name: the new one holds the same");
    commands.on(command, [arguments] { return ended(rebase(*arguments)); });
}

}  // namespace dmu::img
