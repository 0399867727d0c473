// SPDX-License-Identifier: GPL-2.0-or-later
#include "xen-backend/control/config.h"

#include <fstream>

#include "tests/unit/mapper/support.h"

namespace dmu::test {
namespace {

Result<Config> parse(const Place& place, const std::string& text) {
    std::ofstream(place.path("xen-dmu.conf")) << text;
    return read_config(config_path());
}

TEST(ConfigFile, AMissingFileIsTheDefaults) {
    Place place;
    auto config = read_config(config_path());
    ASSERT_TRUE(config);
    EXPECT_EQ(config->on_full, OnFull::wait);
    EXPECT_EQ(config->wait_seconds, 0xffffffffu);
    EXPECT_EQ(config->commit_seconds, 1u);
    EXPECT_EQ(config->map_mib, 64u);
}

TEST(ConfigFile, EveryNameIsRead) {
    Place place;
    auto config =
        parse(place,
              "# a comment\nroots = /a:/b c\n image-roots=/vm\non-full = error # here too\n\nwait-seconds = 30\n"
              "commit-seconds=5\nmetadata-mib = 3\nmap-mib = 0\n");
    ASSERT_TRUE(config) << config.error().message;
    EXPECT_EQ(config->paths.roots, (std::vector<std::string>{"/a", "/b c"}));
    EXPECT_EQ(config->paths.image_roots, std::vector<std::string>{"/vm"});
    EXPECT_EQ(config->on_full, OnFull::error);
    EXPECT_EQ(config->wait_seconds, 30u);
    EXPECT_EQ(config->commit_seconds, 5u);
    EXPECT_EQ(config->paths.cache_bytes, 3u << 20);
    EXPECT_EQ(config->map_mib, 0u);
    config = parse(place, "map-mib = 65536\n");
    ASSERT_TRUE(config) << config.error().message;
    EXPECT_EQ(config->map_mib, 65536u);
}

TEST(ConfigFile, WhatIsWrongIsNamedWithItsLine) {
    Place place;
    for (const char* line :
         {"colour = red", "on-full = maybe", "wait-seconds = soon", "commit-seconds = 0", "scratch-mib = 0",
          "metadata-mib = 0", "map-mib = 65537", "map-mib = -1", "lease-ahead = maybe", "roots = vm", "nothing"}) {
        auto config = parse(place, std::string("on-full = wait\n") + line + "\n");
        ASSERT_FALSE(config) << line;
        EXPECT_NE(config.error().message.find("line 2"), std::string::npos) << config.error().message;
    }
}

}  // namespace
}  // namespace dmu::test
