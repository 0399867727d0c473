// SPDX-License-Identifier: GPL-2.0-or-later
// Random images made by dmu-img, judged by qemu-img, and the other way round, for every
// format that both know: a format of the registry joins by its name.
#include "formats/core/image.h"
#include "tests/unit/tools/dmu_img.h"

namespace dmu {
namespace {

class DmuImgQemu : public DmuImg, public ::testing::WithParamInterface<std::string> {
protected:
    void SetUp() override {
        if (!has_qemu()) GTEST_SKIP() << "no qemu-img and qemu-io";
        if (shell("qemu-img create -q -f " + GetParam() + " probe 1M").status != 0)
            GTEST_SKIP() << "qemu-img makes no " << GetParam();
    }
    // "-c 'write ...' -c ...", the same words for both programs.
    std::string random_commands(int count) {
        std::string text;
        for (int i = 0; i < count; i++) {
            const auto at = random_() % (size_ / 512) * 512;
            const auto length = std::min<std::uint64_t>((1 + random_() % 400) * 512, size_ - at);
            const auto kind = random_() % 5;
            text += " -c '" + std::string(kind == 0 ? "write -z " : "write -P " + std::to_string(1 + random_() % 255)) +
                    " " + std::to_string(at) + " " + std::to_string(length) + "'";
            if (kind == 1) text += " -c flush";
        }
        return text;
    }
    std::string ours() const { return GetParam() + ":ours"; }

    std::uint64_t seed_ = test_seed();
    std::mt19937_64 random_{seed_};
    ::testing::ScopedTrace trace_{__FILE__, __LINE__, "DMU_TEST_SEED=" + std::to_string(seed_)};
    std::uint64_t size_ = (1 + random_() % 8000) * 512;
};

TEST_P(DmuImgQemu, WrittenByUs) {
    for (int round = 0; round < 4; round++) {
        const auto commands = random_commands(12);
        qemu("rm -f model ours");
        good("create raw:model " + std::to_string(size_));
        good("create " + ours() + " " + std::to_string(size_));
        qemu("qemu-io -f raw" + commands + " model >/dev/null");
        good("io" + commands + " " + ours() + " >/dev/null");
        qemu("qemu-img compare -f raw -F " + GetParam() + " model ours");
        good("compare -s raw:model " + ours());
        EXPECT_EQ(img("check " + ours()).status % 3, 0);
    }
}

TEST_P(DmuImgQemu, WrittenByQemu) {
    for (int round = 0; round < 4; round++) {
        const auto commands = random_commands(12);
        qemu("rm -f model theirs");
        good("create raw:model " + std::to_string(size_));
        qemu("qemu-img create -q -f " + GetParam() + " theirs " + std::to_string(size_));
        qemu("qemu-io -f raw" + commands + " model >/dev/null && qemu-io -f " + GetParam() + commands +
             " theirs >/dev/null");
        good("compare raw:model " + GetParam() + ":theirs");
        EXPECT_EQ(img("check " + GetParam() + ":theirs").status % 3, 0);
        // And on, by us.
        const auto more = random_commands(6);
        good("io" + more + " raw:model >/dev/null");
        good("io" + more + " " + GetParam() + ":theirs >/dev/null");
        qemu("qemu-img compare -f raw -F " + GetParam() + " model theirs");
    }
}

TEST_P(DmuImgQemu, Converted) {
    qemu("rm -f model");
    good("create raw:model " + std::to_string(size_));
    good("io" + random_commands(12) + " raw:model >/dev/null");
    good("convert raw:model " + ours());
    qemu("qemu-img compare -f raw -F " + GetParam() + " model ours");
    good("convert " + ours() + " raw:back");
    qemu("cmp model back");
    qemu("qemu-img convert -f raw -O " + GetParam() + " model theirs");
    good("compare raw:model " + GetParam() + ":theirs");
    // Compressed, where the format can.
    const auto small = img("convert -c raw:model " + GetParam() + ":small");
    if (small.status != 0) {
        EXPECT_THAT(small.output, ::testing::HasSubstr("written compressed"));
        return;
    }
    qemu("qemu-img compare -f raw -F " + GetParam() + " model small");
    good("compare raw:model " + GetParam() + ":small");
}

std::vector<std::string> names() {
    std::vector<std::string> all;
    for (const auto* format : all_formats()) all.emplace_back(format->name);
    return all;
}

INSTANTIATE_TEST_SUITE_P(Formats, DmuImgQemu, ::testing::ValuesIn(names()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace dmu
