// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/debug/log.h"

#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>

#include "tests/unit/debug_offline/support.h"

namespace dmu::debug {
namespace {

using ::testing::HasSubstr;

class Log : public ::testing::Test {
protected:
    std::unique_ptr<LogWriter> writer() {
        auto made = LogWriter::create(path_, {2048, 4096, 1234567890, "/dev/vdb"});
        EXPECT_TRUE(made) << (made ? "" : made.error().message);
        return std::move(*made);
    }
    std::unique_ptr<LogReader> reader() {
        auto opened = LogReader::open(path_);
        EXPECT_TRUE(opened) << (opened ? "" : opened.error().message);
        return std::move(*opened);
    }
    void spoil(std::uint64_t offset, const std::string& bytes) {
        std::fstream file(path_ + "/records", std::ios::in | std::ios::out | std::ios::binary);
        file.seekp(static_cast<std::streamoff>(offset));
        file << bytes;
    }
    TempDir directory_;
    std::string path_ = directory_ / "log";
};

TEST_F(Log, EveryFieldComesBack) {
    auto log = writer();
    Record record;
    record.time = 11, record.end = 22, record.order = 3, record.sector = 16, record.sectors = 8;
    record.op = Op::write, record.flags = flag_fua | flag_meta, record.outcome = Outcome::torn;
    record.error = EIO, record.torn_first = 2, record.torn_count = 5, record.hash = hash_of(bytes_of("abc"));
    record.data = 4096;
    ASSERT_TRUE(log->append(record));
    EXPECT_EQ(record.number, 1u);
    Record mark;
    mark.op = Op::mark, mark.label = std::string(70, 'x');
    ASSERT_TRUE(log->append(mark));
    EXPECT_EQ(mark.number, 2u);

    const auto read = reader();
    EXPECT_EQ(read->header().sectors, 2048u);
    EXPECT_EQ(read->header().block, 4096u);
    EXPECT_EQ(read->header().started, 1234567890u);
    EXPECT_EQ(read->header().source, "/dev/vdb");
    ASSERT_EQ(read->records().size(), 2u);
    const auto& got = read->records()[0];
    EXPECT_EQ(got.time, 11u);
    EXPECT_EQ(got.end, 22u);
    EXPECT_EQ(got.order, 3u);
    EXPECT_EQ(got.sector, 16u);
    EXPECT_EQ(got.sectors, 8u);
    EXPECT_EQ(got.data, 4096u);
    EXPECT_EQ(got.op, Op::write);
    EXPECT_EQ(flags_text(got.flags), "FUA,META");
    EXPECT_EQ(got.outcome, Outcome::torn);
    EXPECT_EQ(got.error, static_cast<unsigned>(EIO));
    EXPECT_EQ(got.torn_first, 2u);
    EXPECT_EQ(got.torn_count, 5u);
    // sha256("abc") = ba7816bf 8f01cfea 414140de 5dae2223 ...
    EXPECT_EQ(hash_text(got.hash), "ba7816bf8f01cfea414140de5dae2223");
    EXPECT_EQ(read->records()[1].label, std::string(64, 'x'));
}

TEST_F(Log, UpdateChangesInPlace) {
    auto log = writer();
    Record first, second;
    ASSERT_TRUE(log->append(first));
    ASSERT_TRUE(log->append(second));
    first.outcome = Outcome::dropped, first.end = 99;
    ASSERT_TRUE(log->update(first));
    const auto read = reader();
    ASSERT_EQ(read->records().size(), 2u);
    EXPECT_EQ(read->records()[0].outcome, Outcome::dropped);
    EXPECT_EQ(read->records()[0].end, 99u);
    EXPECT_EQ(read->records()[1].outcome, Outcome::pending);
}

TEST_F(Log, KeepsData) {
    auto log = writer();
    const auto first = log->reserve(1), second = log->reserve(24);
    ASSERT_TRUE(first && second);
    EXPECT_EQ(*first, 0u);
    EXPECT_EQ(*second, 4096u);
    // Room is there before the kernel writes into it.
    EXPECT_GE(std::filesystem::file_size(log->data_path()), 4096u + 12288u);
    Record record;
    record.sectors = 24, record.data = *second;
    const std::vector<std::byte> data(24 * 512, std::byte{0x5a});
    ASSERT_TRUE(log->write_data(*second, data));
    ASSERT_TRUE(log->append(record));
    log.reset();
    EXPECT_EQ(std::filesystem::file_size(path_ + "/data"), 4096u + 12288u);

    const auto read = reader();
    std::vector<std::byte> back(512);
    ASSERT_TRUE(read->read_data(read->records()[0], 23 * 512, back));
    EXPECT_EQ(back[511], std::byte{0x5a});
    EXPECT_FALSE(read->read_data(read->records()[0], 23 * 512 + 1, back));
    EXPECT_EQ(*read->hash(read->records()[0]), hash_of(data));
}

TEST_F(Log, SaysThatDataWasNotKept) {
    auto log = writer();
    Record record;
    record.sectors = 8;
    ASSERT_TRUE(log->append(record));
    const auto read = reader();
    std::vector<std::byte> back(512);
    const auto done = read->read_data(read->records()[0], 0, back);
    ASSERT_FALSE(done);
    EXPECT_EQ(done.error().code, Code::not_found);
    EXPECT_THAT(done.error().message, HasSubstr("record 1"));
    EXPECT_EQ(*read->hash(read->records()[0]), Hash{});
}

TEST_F(Log, AHalfWrittenRecordIsNoRecord) {
    {
        auto log = writer();
        Record record;
        ASSERT_TRUE(log->append(record));
        ASSERT_TRUE(log->append(record));
    }
    std::filesystem::resize_file(path_ + "/records", 4096 + 160 + 159);
    EXPECT_EQ(reader()->records().size(), 1u);
}

TEST_F(Log, IsNotOverwritten) {
    auto log = writer();
    const auto again = LogWriter::create(path_, {});
    ASSERT_FALSE(again);
    EXPECT_EQ(again.error().code, Code::busy);
}

TEST_F(Log, RefusesWhatIsNone) {
    EXPECT_EQ(LogReader::open(path_).error().code, Code::not_found);
    {
        auto log = writer();
        Record record;
        record.sector = 2040, record.sectors = 8;
        ASSERT_TRUE(log->append(record));
    }
    ASSERT_TRUE(LogReader::open(path_));
    const auto refused = [&](const char* what) {
        const auto opened = LogReader::open(path_);
        ASSERT_FALSE(opened) << what;
        EXPECT_THAT(opened.error().message, HasSubstr(what));
    };
    const auto record = 4096;
    spoil(record + 40, "\x09");
    refused("record 1: sectors 2040 + 9 of a device that has 2048");
    spoil(record + 40, "\x08");
    spoil(record, "\x02");
    refused("record 1: it says that it is number 2");
    spoil(record, "\x01");
    spoil(record + 56, "\x06");
    refused("an operation 6");
    spoil(record + 56, "\x01");
    spoil(record + 64, "\x05");
    refused("an outcome 5");
    spoil(record + 64, "\x01");
    spoil(record + 72, "\x09");
    refused("torn outside itself");
    spoil(8, "\x02");
    refused("version 2");
    spoil(0, "x");
    refused("does not begin");
    std::filesystem::resize_file(path_ + "/records", 100);
    refused("too short");
}

}  // namespace
}  // namespace dmu::debug
