// SPDX-License-Identifier: GPL-2.0-or-later
// The log of a device's requests: a directory with two files.
//
//   records   a header of 4096 bytes, then one record of 160 bytes per request, numbered
//             1, 2, ... in the order in which they came; little-endian throughout. Records
//             are appended when a request comes and changed in place when it ends: a log
//             whose writer was killed is whole, its last requests are "pending".
//   data      the bytes of the writes, each at a multiple of 4096 bytes. The kernel target
//             writes them itself: the file is one of its destinations.
//
// What was on the device before the first record is not in the log: a log is played onto
// a copy of the device as it was then.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "formats/core/result.h"

namespace dmu::debug {

inline constexpr std::uint64_t sector_bytes = 512;

// The first four are DMU_OP_*.
enum class Op : std::uint32_t { read = 0, write = 1, discard = 2, zero = 3, flush = 4, mark = 5 };

enum class Outcome : std::uint32_t {
    pending = 0,  // it has not ended (yet)
    through = 1,  // as it came
    dropped = 2,  // ended well, but never reached the device
    failed = 3,   // ended in Record::error, and never reached the device
    torn = 4,     // only torn_first, torn_count of it reached the device
};

inline constexpr std::uint32_t flag_fua = 1u << 0, flag_meta = 1u << 1, flag_sync = 1u << 2;
inline constexpr std::uint64_t no_data = UINT64_MAX;
inline constexpr std::size_t label_bytes = 64;

using Hash = std::array<std::byte, 16>;

struct Record {
    std::uint64_t number = 0;  // from 1; given by LogWriter::append()
    std::uint64_t time = 0;    // when it came, ns since the log's start
    std::uint64_t end = 0;     // when it ended, 0: it has not
    // The place in the order in which requests reached the device, from 1; 0: it did not, or
    // has not yet. Where nothing was reordered these ascend as the numbers do.
    std::uint64_t order = 0;
    std::uint64_t sector = 0, sectors = 0;  // of 512 bytes; no sectors of a flush or a mark
    std::uint64_t data = no_data;           // bytes into the file "data"
    Op op = Op::write;
    std::uint32_t flags = 0;
    Outcome outcome = Outcome::pending;
    std::uint32_t error = 0;                       // a positive errno
    std::uint32_t torn_first = 0, torn_count = 0;  // sectors, from the request's start
    Hash hash{};                                   // of the data, see hash_of(); zeros: not computed
    std::string label;                             // of a mark; at most label_bytes, the rest is cut off

    bool has_data() const { return data != no_data; }
    bool has_hash() const { return hash != Hash{}; }
    // Does it change what is on the device?
    bool changes() const { return op == Op::write || op == Op::discard || op == Op::zero; }
    // It changed the device: all of it, or the sectors that torn_* say.
    bool reached() const { return changes() && (outcome == Outcome::through || outcome == Outcome::torn); }
    std::uint64_t end_sector() const { return sector + sectors; }
};

struct LogHeader {
    std::uint64_t sectors = 0;  // of the device
    std::uint32_t block = 512;  // the device's logical block, bytes
    std::uint64_t started = 0;  // wall clock at time 0, ns since 1970
    std::string source;         // what was logged, as it was named; at most 1024 bytes
    bool partial = false;       // a filter has left out changes of the device
};

// The first half of SHA-256.
Hash hash_of(std::span<const std::byte> data);
std::string hash_text(const Hash& hash);

const char* op_text(Op op);
const char* outcome_text(Outcome outcome);
// "FUA,META", or ""
std::string flags_text(std::uint32_t flags);

// One thread at a time. Nothing is synced: a log is for what the device does, it need not
// survive the host.
class LogWriter {
public:
    // Makes the directory; Code::busy: it holds a log already.
    static Result<std::unique_ptr<LogWriter>> create(const std::string& directory, const LogHeader& header);
    ~LogWriter();  // gives back what reserve() took ahead
    LogWriter(const LogWriter&) = delete;
    LogWriter& operator=(const LogWriter&) = delete;

    // Sets record.number.
    Status append(Record& record);
    // Writes a record again that append() has numbered.
    Status update(const Record& record);

    // Bytes into "data" of a fresh place of so many sectors, a multiple of 4096; the file is
    // that long, and its space allocated, afterwards. Code::no_space.
    Result<std::uint64_t> reserve(std::uint64_t sectors);
    // Into a place of reserve().
    Status write_data(std::uint64_t offset, std::span<const std::byte> data);
    Status read_data(std::uint64_t offset, std::span<std::byte> into);
    // Of "data", for reading and writing, buffered; the writer's own.
    int data_descriptor() const { return data_; }
    std::string data_path() const;
    std::uint64_t count() const { return count_; }

private:
    LogWriter(std::string directory, int records, int data)
        : directory_(std::move(directory)), records_(records), data_(data) {}

    std::string directory_;
    int records_, data_;
    std::uint64_t count_ = 0, data_used_ = 0, data_size_ = 0;
};

// A log as it is at the time; its writer may still be at work.
class LogReader {
public:
    // Code::corrupt: not a log, or a contradiction in it.
    static Result<std::unique_ptr<LogReader>> open(const std::string& directory);
    ~LogReader();
    LogReader(const LogReader&) = delete;
    LogReader& operator=(const LogReader&) = delete;

    const LogHeader& header() const { return header_; }
    const std::string& directory() const { return directory_; }
    // records()[n - 1] is the record of number n.
    const std::vector<Record>& records() const { return records_; }
    // The bytes of a write from a byte of it on. Code::not_found: they were not kept.
    Status read_data(const Record& record, std::uint64_t from, std::span<std::byte> into) const;
    int data_descriptor() const { return data_; }
    // The stored one, or computed from the data; none where there is neither.
    Result<Hash> hash(const Record& record) const;

private:
    LogReader() = default;
    Status load(int records);

    std::string directory_;
    LogHeader header_;
    std::vector<Record> records_;
    int data_ = -1;
};

}  // namespace dmu::debug
