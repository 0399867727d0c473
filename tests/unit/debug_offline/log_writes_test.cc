// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/debug/offline/log_writes.h"

#include <cstring>

#include "formats/core/endian.h"
#include "tests/unit/debug_offline/recorder.h"
#include "tools/debug/offline/contents.h"

namespace dmu::debug {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// An independent reader: a super block of one unit (magic, version, entries, unit), then
// entries of one unit (sector, sectors, flags, length of what is in it) with their data.
struct Seen {
    std::uint64_t sector, sectors, flags;
    std::string mark;
    Bytes data;
};

std::vector<Seen> read_log_writes(const std::string& path) {
    const auto raw = read_file(path);
    EXPECT_GE(raw.size(), 512u);
    EXPECT_EQ(load_le<std::uint64_t>(raw, 0), 0x6a736677736872u);
    EXPECT_EQ(load_le<std::uint64_t>(raw, 8), 1u);
    const auto unit = load_le<std::uint32_t>(raw, 24);
    std::vector<Seen> seen;
    std::size_t at = unit;
    for (auto left = load_le<std::uint64_t>(raw, 16); left > 0; left--) {
        Seen one{load_le<std::uint64_t>(raw, at),
                 load_le<std::uint64_t>(raw, at + 8),
                 load_le<std::uint64_t>(raw, at + 16),
                 "",
                 {}};
        if ((one.flags & 8) != 0)
            one.mark.assign(reinterpret_cast<const char*>(raw.data()) + at + 32, load_le<std::uint64_t>(raw, at + 24));
        at += unit;
        if ((one.flags & 4) == 0) {
            const auto begin = raw.begin() + static_cast<std::ptrdiff_t>(at);
            one.data.assign(begin, begin + static_cast<std::ptrdiff_t>(one.sectors * unit));
            at += one.sectors * unit;
        }
        seen.push_back(std::move(one));
    }
    EXPECT_EQ(at, raw.size());
    return seen;
}

std::string shape(const std::vector<Seen>& seen) {
    std::string text;
    for (const auto& one : seen)
        text += std::to_string(one.sector) + "+" + std::to_string(one.sectors) + "/" + std::to_string(one.flags) + " ";
    return text;
}

class LogWrites : public Recorded {
protected:
    std::string out_ = directory_ / "out";
};

TEST_F(LogWrites, ExportsInTheOrderOfDurability) {
    // The example of the kernel's own description: Wa,Wb,Wc,Cc,Ca,FLUSH,FUAd,Cb,CFLUSH,CFUAd
    Recorder& r = recorder();
    auto a = r.begin(Op::write, 0, 8), b = r.begin(Op::write, 8, 8), c = r.begin(Op::write, 16, 8);
    r.end(c), r.end(a);
    auto flush = r.begin(Op::flush);
    auto d = r.begin(Op::write, 24, 8, flag_fua);
    r.end(b), r.end(flush), r.end(d);
    ASSERT_OK(export_log_writes(*log(), out_));
    // c, a, flush, the FUA write, then what was not flushed.
    EXPECT_EQ(shape(read_log_writes(out_)), "16+8/0 0+8/0 0+0/1 24+8/2 8+8/0 ");
}

TEST_F(LogWrites, LeavesOutWhatNeverReachedTheDevice) {
    Recorder& r = recorder();
    r.write(0, 8, 'a', Outcome::dropped);
    r.write(8, 8, 'b', Outcome::failed);
    auto torn = r.begin(Op::write, 16, 8, 0, 'c');
    torn.torn_first = 2, torn.torn_count = 3;
    r.end(torn, Outcome::torn);
    r.begin(Op::write, 24, 8);  // pending
    r.mark("here it is");
    r.change(Op::discard, 32, 8);
    r.change(Op::zero, 40, 8);
    ASSERT_OK(export_log_writes(*log(), out_));
    const auto seen = read_log_writes(out_);
    // Marks come when they were set, unflushed writes at the end.
    EXPECT_EQ(shape(seen), "0+0/8 18+3/0 32+8/4 40+8/0 ");
    EXPECT_EQ(seen[0].mark, "here it is");
    EXPECT_EQ(seen[1].data, Bytes(3 * 512, std::byte{'c'}));
    EXPECT_EQ(seen[3].data, Bytes(8 * 512));
}

TEST_F(LogWrites, AnOverwrittenWriteIsNotBehindTheFuaWrite) {
    Recorder& r = recorder();
    r.write(0, 8, 'a');
    r.write(64, 8, 'x');
    r.change(Op::write, 0, 8, flag_fua);
    ASSERT_OK(export_log_writes(*log(), out_));
    EXPECT_EQ(shape(read_log_writes(out_)), "0+8/0 0+8/2 64+8/0 ");
}

TEST_F(LogWrites, CountsInTheDevicesBlocks) {
    Recorder& r = recorder(4096);
    r.write(16, 8, 'a');
    ASSERT_OK(export_log_writes(*log(), out_));
    EXPECT_EQ(shape(read_log_writes(out_)), "2+1/0 ");
}

TEST_F(LogWrites, ComesBack) {
    Recorder& r = recorder();
    r.write(0, 8, 'a');
    r.mark("m");
    r.flush();
    r.write(4, 8, 'b');
    r.change(Op::discard, 64, 8);
    auto fua = r.begin(Op::write, 80, 1, flag_fua | flag_meta, 'f');
    r.end(fua);
    r.flush();
    ASSERT_OK(export_log_writes(*log(), out_));
    const auto again = directory_ / "again";
    ASSERT_OK(import_log_writes(out_, again, 0));
    auto back = LogReader::open(again);
    ASSERT_TRUE(back) << back.error().message;
    std::vector<std::string> ops;
    for (const auto& record : (*back)->records())
        ops.push_back(std::string(op_text(record.op)) + " " + std::to_string(record.sector) + " " +
                      flags_text(record.flags));
    EXPECT_THAT(ops, ElementsAre("mark 0 ", "write 0 ", "flush 0 ", "write 80 FUA,META", "write 4 ", "discard 64 ",
                                 "flush 0 "));
    EXPECT_EQ((*back)->header().sectors, 81u);
    EXPECT_EQ((*back)->records()[0].label, "m");
    Bytes data(512);
    ASSERT_OK((*back)->read_data((*back)->records()[3], 0, data));
    EXPECT_EQ(data, Bytes(512, std::byte{'f'}));
    // And out again, the same bytes.
    const auto second = directory_ / "second";
    ASSERT_OK(export_log_writes(**back, second));
    EXPECT_EQ(read_file(second), read_file(out_));
}

TEST_F(LogWrites, RefusesNonsense) {
    Recorder& r = recorder();
    r.write(0, 8, 'a');
    ASSERT_OK(export_log_writes(*log(), out_));
    const auto refused = [&](std::size_t at, std::uint64_t value, const char* what) {
        auto bytes = read_file(out_);
        store_le(std::span(bytes), at, value);
        write_file(directory_ / "bad", bytes);
        const auto done = import_log_writes(directory_ / "bad", directory_ / "none", 0);
        ASSERT_FALSE(done) << what;
        EXPECT_THAT(done.error().message, HasSubstr(what));
        std::filesystem::remove_all(directory_ / "none");
    };
    refused(0, 1, "does not begin as a log of dm-log-writes");
    refused(8, 2, "version 2");
    refused(16, 2, "ends before entry 2 of 2");
    refused(24, 500, "sectors of 500 bytes");
    refused(512 + 8, 9, "makes no sense");
    refused(512, UINT64_MAX, "makes no sense");
    const auto small = import_log_writes(out_, directory_ / "small", 4);
    ASSERT_FALSE(small);
    EXPECT_THAT(small.error().message, HasSubstr("up to sector 8, the device is said to have 4"));
}

}  // namespace
}  // namespace dmu::debug
