// SPDX-License-Identifier: GPL-2.0-or-later
// Logs made by hand.
#pragma once

#include "tests/unit/debug_offline/support.h"

namespace dmu::debug {

// Every step takes 10 ns.
class Recorder {
public:
    Recorder(const std::string& path, std::uint64_t sectors, std::uint32_t block) {
        auto made = LogWriter::create(path, {sectors, block, 0, "test"});
        EXPECT_TRUE(made);
        writer_ = std::move(*made);
    }
    Record begin(Op op, std::uint64_t sector = 0, std::uint64_t sectors = 0, std::uint32_t flags = 0, char fill = 'w') {
        Record record;
        record.op = op, record.sector = sector, record.sectors = sectors, record.flags = flags;
        record.time = now_ += 10;
        if (op == Op::write) {
            record.data = *writer_->reserve(sectors);
            EXPECT_TRUE(writer_->write_data(record.data, Bytes(sectors * 512, static_cast<std::byte>(fill))));
        }
        EXPECT_TRUE(writer_->append(record));
        return record;
    }
    void end(Record& record, Outcome outcome = Outcome::through) {
        record.end = now_ += 10;
        record.outcome = outcome;
        if (record.changes() && (outcome == Outcome::through || outcome == Outcome::torn)) record.order = ++order_;
        EXPECT_TRUE(writer_->update(record));
    }
    std::uint64_t change(Op op, std::uint64_t sector, std::uint64_t sectors, std::uint32_t flags = 0) {
        auto record = begin(op, sector, sectors, flags);
        end(record);
        return record.number;
    }
    std::uint64_t write(std::uint64_t sector, std::uint64_t sectors, char fill, Outcome outcome = Outcome::through) {
        auto record = begin(Op::write, sector, sectors, 0, fill);
        end(record, outcome);
        return record.number;
    }
    std::uint64_t flush(Outcome outcome = Outcome::through) {
        auto record = begin(Op::flush);
        end(record, outcome);
        return record.number;
    }
    void mark(const std::string& label) {
        Record record;
        record.op = Op::mark, record.label = label, record.outcome = Outcome::through;
        record.time = record.end = now_ += 10;
        EXPECT_TRUE(writer_->append(record));
    }

private:
    std::unique_ptr<LogWriter> writer_;
    std::uint64_t now_ = 0, order_ = 0;
};

// A test with a directory, a log in it, and the image before it.
class Recorded : public ::testing::Test {
protected:
    static constexpr std::uint64_t sectors = 256;

    Recorder& recorder(std::uint32_t block = 512) {
        if (!recorder_) recorder_ = std::make_unique<Recorder>(path_, sectors, block);
        return *recorder_;
    }
    std::unique_ptr<LogReader> log() {
        auto opened = LogReader::open(path_);
        EXPECT_TRUE(opened) << (opened ? "" : opened.error().message);
        return std::move(*opened);
    }
    // One letter per sector.
    static std::string letters(const std::string& image) {
        const auto bytes = read_file(image);
        std::string text;
        for (std::size_t at = 0; at < bytes.size(); at += 512) {
            const auto letter = static_cast<char>(bytes[at]);
            text += letter == 0 ? '.' : letter;
        }
        return text;
    }

    TempDir directory_;
    std::string path_ = directory_ / "log", base_ = directory_ / "base";
    std::unique_ptr<Recorder> recorder_;
};

}  // namespace dmu::debug
