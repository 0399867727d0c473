// SPDX-License-Identifier: GPL-2.0-or-later
// Images with bytes changed at random: an error or any content, never more than that, and
// a writer never puts data over what was there.
#include "tests/unit/formats/vmdk_support.h"

namespace dmu {
namespace {

class VmdkHostile : public ::testing::Test {
protected:
    // Metadata is where it hurts: changes fall within the first bytes.
    void mutate(const std::string& path, std::size_t within, int rounds) {
        const auto good = disks_.stores[path]->bytes;
        for (int round = 0; round < rounds; round++) {
            auto bad = good;
            for (auto changes = 1 + random_() % 4; changes > 0; changes--) {
                const auto at = random_() % std::min(within, bad.size() - 8);
                if (random_() % 2)
                    bad[at] = static_cast<std::byte>(random_());
                else
                    put_le<std::uint32_t>(bad, at / 4 * 4,
                                          static_cast<std::uint32_t>(random_() % 3 == 0 ? random_() : random_() % 200));
            }
            if (random_() % 10 == 0) bad.resize(random_() % bad.size());
            disks_.put(path, bad);
            look(random_() % 2);
        }
        disks_.put(path, good);
    }
    void look(bool writable) {
        (void)disks_.check_vmdk("/m/d.vmdk");
        auto chain = disks_.chain("vmdk:/m/d.vmdk", writable);
        if (!chain) return;
        const auto size = (*chain)->top().info().virtual_size;
        Bytes part(512);
        for (int i = 0; i < 8; i++) {
            const auto at = i == 0 ? 0 : random_() % (size / 512) * 512;
            (void)(*chain)->read({at}, part);
            if (!writable) continue;
            StandIn target(**chain);
            (void)target.write({at}, part);
            (void)target.flush();
        }
        (void)disks_.check_vmdk("/m/d.vmdk", Repair::all);
    }
    VmdkDisks disks_;
    Bytes disk_;
    const std::uint64_t seed_ = test_seed();
    std::mt19937_64 random_{seed_};
    ::testing::ScopedTrace trace_{__FILE__, __LINE__, "DMU_TEST_SEED=" + std::to_string(seed_)};
};

TEST_F(VmdkHostile, Monolithic) {
    disks_.put("/m/d.vmdk", encode_hosted_extent(some_content(3000, 16, 1, disk_), {2, 7, descriptor_text("")}));
    mutate("/m/d.vmdk", 80, 200);
    mutate("/m/d.vmdk", 40 * 512, 200);
}

TEST_F(VmdkHostile, Stream) {
    disks_.put("/m/d.vmdk", encode_stream(some_content(2000, 128, 1, disk_), descriptor_text("")));
    mutate("/m/d.vmdk", 80, 100);
    mutate("/m/d.vmdk", 1 << 30, 200);
}

TEST_F(VmdkHostile, Cowd) {
    disks_.put("/m/x", encode_cowd_extent(some_content(3000, 1, 1, disk_)));
    disks_.put("/m/d.vmdk", descriptor_text("RW 3000 VMFSSPARSE \"x\"\n"));
    mutate("/m/x", 40, 200);
    mutate("/m/x", 6000, 200);
}

TEST_F(VmdkHostile, SeSparse) {
    disks_.put("/m/x", encode_se_extent(some_content(3000, 8, 1, disk_)));
    disks_.put("/m/d.vmdk", descriptor_text("RW 3000 SESPARSE \"x\"\n"));
    mutate("/m/x", 208, 200);
    mutate("/m/x", 10000, 200);
}

TEST_F(VmdkHostile, Descriptor) {
    disks_.put("/m/x", Bytes(5120));
    disks_.put("/m/d.vmdk", descriptor_text("RW 5 FLAT \"x\" 0\nRW 3 ZERO\nRW 2 VMFS \"x\" 7\n"));
    mutate("/m/d.vmdk", 300, 500);
}

}  // namespace
}  // namespace dmu
