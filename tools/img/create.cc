// SPDX-License-Identifier: GPL-2.0-or-later
// dmu-img create and check.
#include <iostream>

#include "formats/core/locks.h"
#include "tools/img/commands.h"
#include "tools/img/opening.h"
#include "tools/img/text.h"
#include "tools/lib/program.h"

namespace dmu::img {

namespace {

struct CreateArguments {
    std::string image, size, cluster_size, backing;
    std::vector<std::string> options;
};

Status create(const CreateArguments& arguments) {
    NewImage image{.spec = arguments.image, .backing = arguments.backing};
    auto options = parse_options(arguments.options);
    if (!options) return options.error();
    image.options = std::move(*options);
    if (!arguments.size.empty()) {
        const auto size = parse_number(arguments.size);
        if (!size) return size.error();
        image.size = *size;
    }
    if (!arguments.cluster_size.empty()) {
        const auto size = parse_number(arguments.cluster_size);
        if (!size) return size.error();
        if (*size > UINT32_MAX)
            return Error{Code::invalid, "the cluster size " + arguments.cluster_size + " is too large"};
        image.cluster_size = static_cast<std::uint32_t>(*size);
    }
    return create_image(image);
}

struct CheckArguments {
    std::string image, repair;
    bool json = false, quiet = false, force = false;
};

Result<CheckReport> check(const CheckArguments& arguments) {
    const auto named = named_image(arguments.image);
    if (!named) return named.error();
    if (named->format->check == nullptr)
        return Error{Code::unsupported, "images of format " + named->spec.format + " have nothing to check"};
    const auto policy = tool_policy();
    if (!policy) return policy.error();
    CheckOptions options;
    if (!arguments.repair.empty()) options.repair = arguments.repair == "all" ? Repair::all : Repair::leaks;
    const bool writable = options.repair != Repair::none;
    if (writable || !arguments.force) {
        auto free = refuse_attached(named->spec.path);
        if (!free) return free.error();
    }
    auto file = open_file(named->spec.path, {.writable = writable, .direct = false});
    if (!file) return file.error();
    if (writable || !arguments.force) {
        auto locked =
            lock_image((*file)->descriptor(), writable ? LockMode::exclusive : LockMode::shared, named->spec.path);
        if (!locked) return locked.error();
    }
    ImageNeighbours neighbours(named->spec.path, *policy, writable);
    options.neighbours = &neighbours;
    auto report = named->format->check(**file, options);
    if (!report || !writable) return report;
    // The exit status is of what is left now.
    ImageNeighbours again(named->spec.path, *policy, false);
    auto left = named->format->check(**file, {Repair::none, &again});
    if (!left) return left;
    left->corruptions_fixed = report->corruptions_fixed;
    left->leaks_fixed = report->leaks_fixed;
    left->messages = std::move(report->messages);
    return left;
}

control::Json report_json(const CheckReport& report, const NamedImage& named) {
    control::Json json = {{"filename", named.spec.path},
                          {"format", named.spec.format},
                          {"check-errors", 0},
                          {"total-clusters", report.total},
                          {"allocated-clusters", report.allocated},
                          {"messages", report.messages}};
    const std::pair<const char*, std::uint64_t> counts[] = {{"corruptions", report.corruptions},
                                                            {"leaks", report.leaks},
                                                            {"corruptions-fixed", report.corruptions_fixed},
                                                            {"leaks-fixed", report.leaks_fixed}};
    for (const auto& [key, count] : counts)
        if (count != 0) json[key] = count;
    return json;
}

int print_report(const CheckArguments& arguments, const CheckReport& report) {
    if (arguments.json) {
        print_json(report_json(report, *named_image(arguments.image)));
    } else if (!arguments.quiet) {
        if (report.corruptions_fixed != 0) std::cout << "repaired: " << report.corruptions_fixed << " faults\n";
        if (report.leaks_fixed != 0) std::cout << "given back: " << report.leaks_fixed << " leaked clusters\n";
        std::cout << check_text(report);
    }
    return check_status(report);
}

}  // namespace

void add_create(Commands& commands) {
    const auto arguments = std::make_shared<CreateArguments>();
    auto* command = commands.add("create", "make an empty image");
    command->add_option("FORMAT:PATH", arguments->image, "the image; the file must not exist")->required();
    command->add_option("SIZE", arguments->size, "bytes, or with K, M, G, T; with -b by default the backing image's");
    command->add_option("-b,--backing", arguments->backing, "image to start from, as raw:/vm/base.raw")
        ->type_name("FORMAT:PATH");
    command->add_option("--cluster-size", arguments->cluster_size, "unit of allocation");
    command->add_option("-o", arguments->options, "of the format: see its page")
        ->allow_extra_args(false)
        ->type_name("KEY=VALUE[,...]");
    commands.on(command, [arguments] { return ended(create(*arguments)); });
}

void add_check(Commands& commands) {
    const auto arguments = std::make_shared<CheckArguments>();
    auto* command = commands.add("check", "look for faults in an image's metadata");
    command->add_option("FORMAT:PATH", arguments->image, "the image")->required();
    command->add_option("-r,--repair", arguments->repair, "give back leaked space, or put right all that can be")
        ->check(CLI::IsMember({"leaks", "all"}));
    command->add_flag("--json", arguments->json, "the report as qemu-img's JSON");
    command->add_flag("-q,--quiet", arguments->quiet,
                      "only the exit status: 0 good, 1 failed, 2 corrupt, 3 leaks only");
    command->add_flag("--force", arguments->force, "also while it is attached or in use; not with --repair");
    commands.on(command, [arguments] {
        const auto report = check(*arguments);
        return report ? print_report(*arguments, *report) : failed(report.error());
    });
}

}  // namespace dmu::img
