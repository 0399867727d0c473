// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/lib/block_list.h"

#include <algorithm>
#include <cstdio>

namespace dmu {
namespace {

std::string read_or_dash(XenstoreView& xenstore, const std::string& path) {
    auto value = xenstore.read(path);
    return value && !value->empty() ? *value : "-";
}

std::string target_of(XenstoreView& xenstore, const std::string& backend) {
    const std::string script = read_or_dash(xenstore, backend + "/script");
    const std::string params = read_or_dash(xenstore, backend + "/params");
    if (!script.ends_with("/block-dmu") && script != "block-dmu") return params;
    return params.starts_with("dmu:") ? params : "dmu:" + params;
}

std::string line_of(XenstoreView& xenstore, const std::string& frontend, const std::string& device) {
    const std::string backend = read_or_dash(xenstore, frontend + "/backend");
    std::string text(256, '\0');
    const int length = std::snprintf(text.data(), text.size(), "%-5s %-3s %-6s %-5s %-6s %-8s ", device.c_str(),
                                     read_or_dash(xenstore, frontend + "/backend-id").c_str(), "0",
                                     read_or_dash(xenstore, frontend + "/state").c_str(),
                                     read_or_dash(xenstore, frontend + "/event-channel").c_str(),
                                     read_or_dash(xenstore, frontend + "/ring-ref").c_str());
    text.resize(std::min<std::size_t>(static_cast<std::size_t>(std::max(length, 0)), text.size() - 1));
    return text + backend + "  " + read_or_dash(xenstore, backend + "/mode") + " " + target_of(xenstore, backend) +
           "\n";
}

}  // namespace

Result<unsigned> find_domain(XenstoreView& xenstore, const std::string& name) {
    const bool number = !name.empty() && name.size() < 6 && name.find_first_not_of("0123456789") == std::string::npos;
    if (number) return static_cast<unsigned>(std::stoul(name));
    const auto ids = xenstore.directory("/local/domain");
    if (!ids) return ids.error();
    for (const auto& id : *ids)
        if (const auto found = xenstore.read("/local/domain/" + id + "/name"); found && *found == name)
            return static_cast<unsigned>(std::stoul(id));
    return Error{Code::not_found, "'" + name + "' is no domain that runs here ('xl list' shows them)"};
}

Result<std::string> block_list(XenstoreView& xenstore, const std::vector<std::string>& domains) {
    std::string text = "Vdev  BE  handle state evt-ch ring-ref BE-path  Mode Target\n";
    for (const auto& name : domains) {
        const auto domain = find_domain(xenstore, name);
        if (!domain) return domain.error();
        const std::string vbds = "/local/domain/" + std::to_string(*domain) + "/device/vbd";
        auto devices = xenstore.directory(vbds);
        if (!devices && devices.error().code != Code::not_found) return devices.error();
        if (!devices) continue;
        std::sort(devices->begin(), devices->end());
        for (const auto& device : *devices) text += line_of(xenstore, vbds + "/" + device, device);
    }
    return text;
}

}  // namespace dmu
