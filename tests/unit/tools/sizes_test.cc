// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/lib/sizes.h"

#include <gtest/gtest.h>

#include "tools/lib/vdev.h"

namespace dmu {
namespace {

TEST(Sizes, AreRead) {
    const std::pair<const char*, std::uint64_t> good[] = {{"0", 0},
                                                          {"512", 512},
                                                          {"512B", 512},
                                                          {"4k", 4096},
                                                          {"4K", 4096},
                                                          {"10G", 10ull << 30},
                                                          {"10GiB", 10ull << 30},
                                                          {"10GB", 10ull << 30},
                                                          {"1.5T", 3ull << 39},
                                                          {"0.5K", 512},
                                                          {"8191P", 8191ull << 50},
                                                          {"9223372036854775807", 9223372036854775807ull}};
    for (const auto& [text, bytes] : good) {
        const auto size = parse_size(text);
        ASSERT_TRUE(size) << text;
        EXPECT_EQ(*size, bytes) << text;
    }
}

TEST(Sizes, AreRefused) {
    for (const char* text : {"", "G", "x", "-1", "1X", "1 G", "1.", "1.G", ".5G", "0.1", "1.3K", "9223372036854775808",
                             "8192P", "99999999999999999999", "1GG", "1GiBB", "1e3"})
        EXPECT_FALSE(parse_size(text)) << text;
}

TEST(Sizes, AreShortened) {
    EXPECT_EQ(short_size(0), "0");
    EXPECT_EQ(short_size(1023), "1023");
    EXPECT_EQ(short_size(1024), "1K");
    EXPECT_EQ(short_size(1536), "1.5K");
    EXPECT_EQ(short_size(10ull << 30), "10G");
    EXPECT_EQ(short_size(3ull << 39), "1.5T");
    EXPECT_EQ(short_size(~0ull), "16E");
    EXPECT_EQ(short_count(999), "999");
    EXPECT_EQ(short_count(12345), "12.3k");
    EXPECT_EQ(short_count(123456), "123k");
    EXPECT_EQ(short_count(4500000), "4.5M");
}

TEST(Vdev, HasXensNames) {
    EXPECT_EQ(vdev_name(51712), "xvda");
    EXPECT_EQ(vdev_name(51713), "xvda1");
    EXPECT_EQ(vdev_name(51728), "xvdb");
    EXPECT_EQ(vdev_name(768), "hda");
    EXPECT_EQ(vdev_name(832), "hdb");
    EXPECT_EQ(vdev_name(5632), "hdc");
    EXPECT_EQ(vdev_name(2048), "sda");
    EXPECT_EQ(vdev_name((1u << 28) | (26u << 8)), "xvdaa");
    EXPECT_EQ(vdev_name((1u << 28) | (16u << 8) | 3), "xvdq3");
    EXPECT_EQ(vdev_name(77), "77");
}

TEST(Vdev, FindsBackends) {
    const auto path = parse_backend_path("backend/vbd/5/51712");
    ASSERT_TRUE(path);
    EXPECT_EQ(path->domain, 5u);
    EXPECT_EQ(path->device, 51712u);
    EXPECT_TRUE(parse_backend_path("/local/domain/0/backend/vbd/12/768"));
    for (const char* text :
         {"", "backend/vbd/5", "backend/vbd/x/1", "backend/vbd/5/51712/", "name-a", "backend/vbd/5/1/../2"})
        EXPECT_FALSE(parse_backend_path(text)) << text;
}

}  // namespace
}  // namespace dmu
