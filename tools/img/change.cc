// SPDX-License-Identifier: GPL-2.0-or-later
// dmu-img resize and snapshot.
#include <iostream>

#include "tools/img/commands.h"
#include "tools/img/copying.h"
#include "tools/img/opening.h"
#include "tools/img/text.h"
#include "tools/lib/program.h"

namespace dmu::img {

namespace {

// ---------------------------------------------------------------- resize ---

struct ResizeArguments {
    std::string image, size;
    bool shrink = false;
};

// "10G", "+1G", "-1G"
Result<std::uint64_t> wanted_size(const std::string& text, std::uint64_t now) {
    const bool relative = text.starts_with('+') || text.starts_with('-');
    const auto number = parse_number(relative ? text.substr(1) : text);
    if (!number || !relative) return number;
    if (text.starts_with('+')) {
        if (*number > UINT64_MAX / 2 - now) return Error{Code::invalid, "the disk would be too large"};
        return now + *number;
    }
    if (*number >= now) return Error{Code::invalid, "nothing would be left of the disk"};
    return now - *number;
}

// A longer backing file would show in what was added: zeros are to be there.
Status hide_backing(Chain& chain, std::uint64_t from, std::uint64_t to) {
    if (chain.depth() == 1) return ok();
    const auto end = std::min(to, chain.layer(1).info().virtual_size);
    if (from >= end) return ok();
    StandIn target(chain);
    auto done = write_zeros(target, chain.top().info(), {{from}, end - from});
    return done ? target.flush() : done;
}

Status resize_by_flag(const ResizeArguments& arguments) {
    auto chain = open_chain(arguments.image, true);
    if (!chain) return chain.error();
    auto& image = (*chain)->top();
    const auto before = image.info().virtual_size;
    const auto wanted = wanted_size(arguments.size, before);
    if (!wanted) return wanted.error();
    if (*wanted < before && !arguments.shrink)
        return Error{Code::invalid, "'" + arguments.image + "' has " + size_text(before) +
                                        "; what lies past the new end would be lost: say --shrink if it may be"};
    auto done = image.resize(*wanted);
    if (done) done = hide_backing(**chain, before, image.info().virtual_size);
    return done ? close_image(image) : done;
}

// -------------------------------------------------------------- snapshot ---

struct SnapshotArguments {
    std::string image, create, apply, remove;
    bool list = false;
};

Error none_possible(const NamedImage& named) {
    return {Code::unsupported, "images of format " + named.spec.format + " have no internal snapshots"};
}

Status change_snapshots(const SnapshotArguments& arguments, const NamedImage& named) {
    auto opened = open_alone(named, true, Depth::whole);
    if (!opened) return opened.error();
    auto* snapshots = opened->image->snapshots();
    if (snapshots == nullptr) return none_possible(named);
    if (opened->image->write_protected()) {
        auto begun = opened->image->begin_writing();
        if (!begun) return begun;
    }
    auto done = !arguments.create.empty()  ? snapshots->create(arguments.create)
                : !arguments.apply.empty() ? snapshots->apply(arguments.apply)
                                           : snapshots->remove(arguments.remove);
    return done ? close_image(*opened->image) : done;
}

int snapshot(const SnapshotArguments& arguments) {
    const auto named = named_image(arguments.image);
    if (!named) return failed(named.error());
    const bool changes = !arguments.create.empty() || !arguments.apply.empty() || !arguments.remove.empty();
    if (changes) return ended(change_snapshots(arguments, *named));
    auto opened = open_alone(*named, false, Depth::info_only);
    if (!opened) return failed(opened.error());
    const auto* snapshots = opened->image->snapshots();
    if (snapshots == nullptr) return failed(none_possible(*named));
    if (!snapshots->list().empty()) std::cout << "Snapshot list:\n" << snapshot_table(snapshots->list());
    return 0;
}

}  // namespace

void add_resize(Commands& commands) {
    const auto arguments = std::make_shared<ResizeArguments>();
    auto* command = commands.add("resize", "make a disk larger, or smaller");
    command->add_option("FORMAT:PATH", arguments->image, "the image")->required();
    command->add_option("SIZE", arguments->size, "bytes, or with K, M, G, T; +SIZE, or -SIZE after '--'")->required();
    command->add_flag("--shrink", arguments->shrink, "smaller: what lies past the new end is lost");
    commands.on(command, [arguments] { return ended(resize_by_flag(*arguments)); });
}

void add_snapshot(Commands& commands) {
    const auto arguments = std::make_shared<SnapshotArguments>();
    auto* command = commands.add("snapshot", "internal snapshots: list, create, apply, delete");
    command->add_option("FORMAT:PATH", arguments->image, "the image")->required();
    auto* group = command->add_option_group("what", "one of");
    group->add_flag("-l,--list", arguments->list, "list them; without an option too");
    group->add_option("-c,--create", arguments->create, "create one")->type_name("NAME");
    group->add_option("-a,--apply", arguments->apply, "go back to one")->type_name("ID|NAME");
    group->add_option("-d,--delete", arguments->remove, "delete one")->type_name("ID|NAME");
    group->require_option(0, 1);
    commands.on(command, [arguments] { return snapshot(*arguments); });
}

}  // namespace dmu::img
