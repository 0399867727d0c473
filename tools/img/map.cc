// SPDX-License-Identifier: GPL-2.0-or-later
// dmu-img map: what lies where.
#include <fstream>
#include <iostream>

#include "tools/img/commands.h"
#include "tools/img/opening.h"
#include "tools/img/pieces.h"
#include "tools/img/text.h"
#include "tools/lib/program.h"

namespace dmu::img {

namespace {

struct MapArguments {
    std::string image, svg;
    bool json = false;
};

control::Json to_json(const Chain& chain, const std::vector<Mapping>& mappings) {
    auto list = control::Json::array();
    for (const auto& mapping : mappings) {
        const bool zero = mapping.kind == MappingKind::zero, opaque = mapping.kind == MappingKind::opaque;
        control::Json piece = {{"start", mapping.start.bytes},
                               {"length", mapping.length},
                               {"depth", mapping.layer},
                               {"present", !zero},
                               {"zero", zero},
                               {"data", !zero}};
        if (opaque) piece["compressed"] = true;
        if (!zero && !opaque) {
            piece["offset"] = mapping.host.bytes;
            piece["filename"] = chain.layer(mapping.layer).files()[mapping.file]->name();
        }
        list.push_back(std::move(piece));
    }
    return list;
}

Status write_text(const std::string& path, const std::string& text) {
    std::ofstream out(path, std::ios::binary | std::ios::trunc);
    out << text;
    out.close();
    return out ? ok() : Status(system_error("write '" + path + "'"));
}

int map(const MapArguments& arguments) {
    auto chain = open_chain(arguments.image, false);
    if (!chain) return failed(chain.error());
    const auto mappings = all_mappings(**chain, {{0}, (*chain)->top().info().virtual_size});
    if (!mappings) return failed(mappings.error());
    if (arguments.json) print_json(to_json(**chain, *mappings));
    if (!arguments.svg.empty()) return ended(write_text(arguments.svg, map_svg(**chain, *mappings)));
    if (!arguments.json) std::cout << map_text(**chain, *mappings);
    return 0;
}

}  // namespace

void add_map(Commands& commands) {
    const auto arguments = std::make_shared<MapArguments>();
    auto* command = commands.add("map", "what lies where in an image and its backing files");
    command->add_option("FORMAT:PATH", arguments->image, "the image")->required();
    command->add_flag("--json", arguments->json, "as qemu-img's JSON");
    command->add_option("--svg", arguments->svg, "draw a picture")->type_name("FILE");
    commands.on(command, [arguments] { return map(*arguments); });
}

}  // namespace dmu::img
