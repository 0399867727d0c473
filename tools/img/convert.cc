// SPDX-License-Identifier: GPL-2.0-or-later
// dmu-img convert and compare.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <iostream>

#include "tools/img/commands.h"
#include "tools/img/copying.h"
#include "tools/img/opening.h"
#include "tools/img/text.h"
#include "tools/lib/program.h"

namespace dmu::img {

namespace {

// --------------------------------------------------------------- convert ---

struct ConvertArguments {
    std::string from, to, cluster_size;
    std::vector<std::string> options;
    bool compress = false, progress = false, existing = false;
};

Progress progress_bar(bool wanted) {
    if (!wanted) return [](std::uint64_t, std::uint64_t) {};
    return [last = -1](std::uint64_t done, std::uint64_t of) mutable {
        constexpr int width = 50;
        const int permille = static_cast<int>(static_cast<double>(done) * 1000.0 / static_cast<double>(of));
        if (permille == last) return;
        last = permille;
        const auto filled = static_cast<std::size_t>(permille * width / 1000);
        std::fprintf(stderr, "\r[%s%s] %5.1f%%%s", std::string(filled, '=').c_str(),
                     std::string(width - filled, ' ').c_str(), permille / 10.0, done == of ? "\n" : "");
    };
}

// All of a raw file is to be taken: its reader ends at whole sectors.
Status check_whole(const Chain& from) {
    if (from.top().info().format != "raw") return ok();
    auto& file = *from.top().files()[0];
    const auto size = file.size();
    if (!size) return size.error();
    if (*size % sector_size == 0) return ok();
    return Error{Code::invalid, "raw image '" + file.name() + "' has " + std::to_string(*size) +
                                    " bytes, not whole sectors of 512; pad it with 'truncate -s %512'"};
}

Status create_target(const ConvertArguments& arguments, std::uint64_t size) {
    NewImage image{.spec = arguments.to, .size = size};
    auto options = parse_options(arguments.options);
    if (!options) return options.error();
    image.options = std::move(*options);
    if (!arguments.cluster_size.empty()) {
        const auto cluster = parse_number(arguments.cluster_size);
        if (!cluster) return cluster.error();
        if (*cluster > UINT32_MAX) return Error{Code::invalid, "the cluster size is too large"};
        image.cluster_size = static_cast<std::uint32_t>(*cluster);
    }
    return create_image(image);
}

// Of the options that an image is made with it is opened with the key.
Result<ImageSpec> opening_spec(const ConvertArguments& arguments, const ImageSpec& spec) {
    if (arguments.existing) return spec;
    auto copy = spec;
    const auto more = parse_options(arguments.options);
    if (!more) return more.error();
    copy.options.insert(copy.options.end(), more->begin(), more->end());
    std::erase_if(copy.options, [](const auto& option) { return option.first != "key-file"; });
    return copy;
}

Status fill_target(const ConvertArguments& arguments, const ImageSpec& spec, Chain& from) {
    auto to = open_chain(spec, true);
    if (!to) return to.error();
    const auto size = from.top().info().virtual_size;
    if ((*to)->top().info().virtual_size < size)
        return Error{Code::invalid, "'" + spec.path + "' is smaller than the source; resize it first"};
    const auto bar = progress_bar(arguments.progress);
    const bool compress = arguments.compress || (*to)->top().info().only_compressed;
    auto done = compress ? copy_compressed(from, **to, bar)
                         : copy_disk(from, **to, arguments.existing ? Target::used : Target::blank, bar);
    return done ? close_image((*to)->top()) : done;
}

Status convert(const ConvertArguments& arguments) {
    const auto named = named_image(arguments.to);
    if (!named) return named.error();
    if (arguments.compress && arguments.existing)
        return Error{Code::invalid, "-c makes a new image; it can't be had with -n"};
    auto from = open_chain(arguments.from, false);
    if (!from) return from.error();
    auto done = check_whole(**from);
    if (!done) return done;
    if (!arguments.existing) {
        done = create_target(arguments, (*from)->top().info().virtual_size);
        if (!done) return done;
    }
    const auto spec = opening_spec(arguments, named->spec);
    if (!spec) return spec.error();
    done = fill_target(arguments, *spec, **from);
    // Half a copy is none.
    if (!done && !arguments.existing) {
        auto half = open_alone({*spec, named->format}, false, Depth::whole);
        if (half)
            for (const auto* file : half->image->files())
                if (file != nullptr) ::unlink(file->name().c_str());
        ::unlink(named->spec.path.c_str());
    }
    return done;
}

// --------------------------------------------------------------- compare ---

// Past the end of a disk there are zeros.
Status read_padded(Chain& chain, std::uint64_t at, std::span<std::byte> into) {
    const auto size = chain.top().info().virtual_size;
    const auto there = at < size ? std::min<std::uint64_t>(into.size(), size - at) : 0;
    std::fill(into.begin() + static_cast<std::ptrdiff_t>(there), into.end(), std::byte{0});
    return chain.read({at}, into.first(there));
}

// The first byte that differs; the end: none.
Result<std::uint64_t> first_difference(Chain& a, Chain& b, std::uint64_t end) {
    std::vector<std::byte> from_a(piece_bytes), from_b(piece_bytes);
    for (std::uint64_t at = 0; at < end;) {
        const auto zeros_a = zeros_ahead(a, at, end - at);
        const auto zeros_b = zeros_ahead(b, at, end - at);
        if (!zeros_a || !zeros_b) return zeros_a ? zeros_b.error() : zeros_a.error();
        auto bytes = std::min(*zeros_a, *zeros_b);
        if (bytes == 0) {
            bytes = std::min(end - at, piece_bytes);
            const auto one = std::span(from_a).first(bytes), other = std::span(from_b).first(bytes);
            auto done = read_padded(a, at, one);
            if (done) done = read_padded(b, at, other);
            if (!done) return done.error();
            const auto differs = std::mismatch(one.begin(), one.end(), other.begin());
            if (differs.first != one.end()) return at + static_cast<std::uint64_t>(differs.first - one.begin());
        }
        at += bytes;
    }
    return end;
}

int compare(const std::string& first, const std::string& second, bool strict) {
    auto a = open_chain(first, false);
    if (!a) return failed(a.error());
    auto b = open_chain(second, false);
    if (!b) return failed(b.error());
    const auto size_a = (*a)->top().info().virtual_size, size_b = (*b)->top().info().virtual_size;
    if (size_a != size_b) {
        std::cerr << program << ": the disks have " << size_a << " and " << size_b << " bytes" << std::endl;
        if (strict) return exit_failed;
    }
    const auto end = std::max(size_a, size_b);
    const auto at = first_difference(**a, **b, end);
    if (!at) return failed(at.error());
    if (*at == end) {
        std::cout << "Images are identical.\n";
        return 0;
    }
    std::cout << "Content mismatch at offset " << *at << "!\n";
    return exit_failed;
}

}  // namespace

void add_convert(Commands& commands) {
    const auto arguments = std::make_shared<ConvertArguments>();
    auto* command = commands.add("convert", "copy a disk into an image of another kind");
    command->add_option("SOURCE", arguments->from, "FORMAT:PATH")->required();
    command->add_option("TARGET", arguments->to, "FORMAT:PATH; the file must not exist")->required();
    command->add_flag("-c,--compress", arguments->compress, "compressed clusters");
    command->add_flag("-p,--progress", arguments->progress, "a progress bar on stderr");
    command->add_flag("-n,--existing", arguments->existing, "into an image that exists, as large at least");
    command->add_option("--cluster-size", arguments->cluster_size, "unit of allocation of the target");
    command->add_option("-o", arguments->options, "of the target's format: see its page")
        ->allow_extra_args(false)
        ->type_name("KEY=VALUE[,...]");
    commands.on(command, [arguments] { return ended(convert(*arguments)); });
}

void add_compare(Commands& commands) {
    struct Arguments {
        std::string first, second;
        bool strict = false;
    };
    const auto arguments = std::make_shared<Arguments>();
    auto* command = commands.add("compare", "whether two disks hold the same; 1: they do not");
    command->add_option("FIRST", arguments->first, "FORMAT:PATH")->required();
    command->add_option("SECOND", arguments->second, "FORMAT:PATH")->required();
    command->add_flag("-s,--strict", arguments->strict, "another size is a difference too");
    commands.on(command, [arguments] { return compare(arguments->first, arguments->second, arguments->strict); });
}

}  // namespace dmu::img
