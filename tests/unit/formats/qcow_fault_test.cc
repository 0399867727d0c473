// SPDX-License-Identifier: GPL-2.0-or-later
// Each operation on the image's file fails once, in turn: the request under way may
// fail, everything else is right, and the next commit makes it durable.
#include "tests/fakes/faulty_file.h"
#include "tests/unit/formats/marked.h"
#include "tests/unit/formats/qcow_support.h"

namespace dmu {
namespace {

constexpr std::uint64_t disk_sectors = most_marked;
constexpr std::uint64_t prime = 8191;

struct Case {
    std::uint32_t cluster;
    Code code;
    bool tear;
    bool encrypted = false;
};

class QcowFault : public ::testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Kind, QcowFault,
                         ::testing::Values(Case{512, Code::io, false}, Case{4096, Code::io, true},
                                           Case{4096, Code::no_space, false}, Case{65536, Code::io, true},
                                           Case{4096, Code::io, true, true}, Case{512, Code::no_space, false, true}));

// True: the fault happened.
bool run_with_fault(const Case& parameter, std::uint64_t fail_at) {
    MemoryDisks disks;
    const KeyFile key;
    const auto base = marked_data(0, disk_sectors, 1);
    disks.add("/m/base")->bytes = base;
    EXPECT_OK(create_qcow(disks, "/m/top.qcow", disk_sectors * sector_size, parameter.cluster, "base",
                          parameter.encrypted ? key.path() : ""));
    auto plan = std::make_shared<FaultPlan>();
    plan->code = parameter.code;
    plan->tear = parameter.tear;
    disks.wrap = [&](unsigned layer, std::unique_ptr<BlockFile> file) -> std::unique_ptr<BlockFile> {
        if (layer != 0) return file;
        return std::make_unique<FaultyFile>(std::move(file), plan);
    };
    const std::string spec =
        "qcow;backing-format=raw" + (parameter.encrypted ? ";key-file=" + key.path() : "") + ":/m/top.qcow";
    const auto judge = [&] {
        EXPECT_TRUE(is_sound(disks.check("/m/top.qcow")));
        EXPECT_FALSE(parameter.encrypted && holds_plain_text(disks.stores["/m/top.qcow"]->bytes));
    };
    auto chain = disks.chain(spec, true);
    EXPECT_OK(chain);
    if (!chain) return false;
    StandIn target(**chain);
    MarkedModel model(base);
    plan->count = 0;
    plan->fail_at = fail_at;

    std::uint64_t write = 2;
    int errors = 0;
    // As a guest does that got an error.
    const auto again = [&](const auto& request) {
        Status done = request();
        if (!done) {
            errors++;
            EXPECT_TRUE(done.error().code == parameter.code) << done.error().message;
            judge();
            done = request();
        }
        EXPECT_OK(done);
    };
    for (int i = 0; i < 12; i++) {
        const auto sector = (static_cast<std::uint64_t>(i) * prime) % (disk_sectors - 40);
        const auto count = 1 + static_cast<std::uint64_t>(i) * 3;
        const auto data = model.begun(sector, count, write++);
        again([&] { return target.write({sector * sector_size}, data); });
        if (i % 4 == 3) {
            again([&] { return target.flush(); });
            model.flushed();
            judge();
        }
        if (i % 5 == 2) again([&] { return (*chain)->top().commit(DataState::written); });
    }
    again([&] { return (*chain)->top().close(); });
    const bool failed = plan->failed;

    // A batch of space that is not to be had is tried smaller.
    EXPECT_TRUE(!failed || errors != 0 || parameter.code == Code::no_space) << "nobody was told";
    judge();
    disks.wrap = nullptr;
    auto reader = disks.chain(spec, false);
    EXPECT_OK(reader);
    Bytes content(disk_sectors * sector_size);
    EXPECT_OK((*reader)->read({0}, content));
    EXPECT_TRUE(model.is_current(content));
    EXPECT_EQ(disks.stores["/m/base"]->bytes, base);
    return failed;
}

TEST_P(QcowFault, EachOperationOnce) {
    std::uint64_t at = 0;
    while (run_with_fault(GetParam(), at) && !HasFailure()) at++;
    EXPECT_GT(at, 20u);
    if (HasFailure()) FAIL() << "operation " << at;
}

// The file system is full, and then has room again; encrypted or not.
class QcowFull : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Encrypted, QcowFull, ::testing::Bool());

TEST_P(QcowFull, GoesOnWhenThereIsRoomAgain) {
    constexpr std::uint64_t size = 8 << 20, piece = 65536;
    MemoryDisks disks;
    const KeyFile key;
    ASSERT_OK(create_qcow(disks, "/m/top.qcow", size, 4096, "", GetParam() ? key.path() : ""));
    const auto spec = "qcow" + (GetParam() ? ";key-file=" + key.path() : "") + ":/m/top.qcow";
    auto& store = *disks.stores["/m/top.qcow"];
    store.capacity = 2 << 20;
    auto chain = disks.chain(spec, true);
    ASSERT_OK(chain);
    StandIn target(**chain);
    // Backwards: the tables come late in the file.
    Bytes model(size);
    const auto write = [&](std::uint64_t at) {
        const auto bytes = pattern(piece, at + 1);
        auto done = target.write({at}, bytes);
        if (done) std::copy(bytes.begin(), bytes.end(), model.begin() + static_cast<std::ptrdiff_t>(at));
        return done;
    };
    const auto judge = [&](std::uint64_t unknown_at) {
        EXPECT_TRUE(is_sound(disks.check("/m/top.qcow")));
        Bytes seen(size);
        ASSERT_OK((*disks.chain(spec, false))->read({0}, seen));
        if (unknown_at < size)  // the write that failed: anything of it
            std::copy_n(model.begin() + static_cast<std::ptrdiff_t>(unknown_at), piece,
                        seen.begin() + static_cast<std::ptrdiff_t>(unknown_at));
        EXPECT_TRUE(seen == model);
    };
    std::uint64_t at = size;
    Status done;
    while (done && at != 0) {
        at -= piece;
        done = write(at);
    }
    EXPECT_TRUE(fails_with(done, Code::no_space, ""));
    EXPECT_LT(at, size - (1 << 20));  // most of the room was used
    // It stays full: what is there can be written to, and is durable.
    ASSERT_TRUE(fails_with(write(at), Code::no_space, ""));
    ASSERT_OK(write(size - piece));
    ASSERT_OK(target.flush());
    judge(at);
    store.capacity = UINT64_MAX;
    for (at += piece; at != 0;) {
        at -= piece;
        ASSERT_OK(write(at));
    }
    ASSERT_OK(target.flush());
    judge(size);
    ASSERT_OK((*chain)->top().close());
    judge(size);
}

TEST(QcowFault, ReadsWhileOpeningSayWhatFailed) {
    for (std::uint64_t at = 0; at < 3; at++) {
        MemoryDisks disks;
        ASSERT_OK(disks.create("/m/top", 1 << 20, 4096, "x"));
        auto plan = std::make_shared<FaultPlan>();
        plan->fail_at = at;
        auto file = std::make_unique<FaultyFile>(std::make_unique<MemoryFile>(disks.stores["/m/top"], "/m/top"), plan);
        EXPECT_TRUE(fails_with(find_format("qcow")->open(std::move(file), {true, {}}), Code::io, "/m/top"));
    }
}

}  // namespace
}  // namespace dmu
