// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/debug/log.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "formats/core/endian.h"

namespace dmu::debug {

namespace {

constexpr std::array<char, 8> magic = {'D', 'M', 'U', '-', 'L', 'O', 'G', '\n'};
constexpr std::uint32_t version = 1;
constexpr std::size_t header_bytes = 4096, record_bytes = 160, source_bytes = 1024;
constexpr std::uint64_t data_alignment = 4096, data_step = 64 << 20;

// Where things lie in the header and in a record.
namespace at {
constexpr std::size_t version = 8, record_size = 12, sectors = 16, block = 24, started = 32, partial = 40, source = 64;
constexpr std::size_t number = 0, time = 8, end = 16, order = 24, sector = 32, length = 40, data = 48, op = 56,
                      flags = 60, outcome = 64, error = 68, torn_first = 72, torn_count = 76, hash = 80, label = 96;
}  // namespace at
static_assert(at::label + label_bytes == record_bytes);

using RawRecord = std::array<std::byte, record_bytes>;
using RawHeader = std::array<std::byte, header_bytes>;

void store_text(std::span<std::byte> into, const std::string& text) {
    std::memcpy(into.data(), text.data(), std::min(into.size(), text.size()));
}

std::string load_text(std::span<const std::byte> from) {
    const auto* text = reinterpret_cast<const char*>(from.data());
    return {text, ::strnlen(text, from.size())};
}

RawHeader encode(const LogHeader& header) {
    RawHeader raw{};
    std::memcpy(raw.data(), magic.data(), magic.size());
    store_le<std::uint32_t>(raw, at::version, version);
    store_le<std::uint32_t>(raw, at::record_size, record_bytes);
    store_le(raw, at::sectors, header.sectors);
    store_le(raw, at::block, header.block);
    store_le(raw, at::started, header.started);
    store_le<std::uint32_t>(raw, at::partial, header.partial);
    store_text(std::span(raw).subspan(at::source, source_bytes), header.source);
    return raw;
}

Result<LogHeader> decode_header(const RawHeader& raw) {
    if (std::memcmp(raw.data(), magic.data(), magic.size()) != 0)
        return Error{Code::corrupt, "it does not begin as a log of dmu-debug does"};
    const auto found = load_le<std::uint32_t>(raw, at::version);
    const auto size = load_le<std::uint32_t>(raw, at::record_size);
    if (found != version || size != record_bytes)
        return Error{Code::unsupported, "a log of version " + std::to_string(found) + " with records of " +
                                            std::to_string(size) + " bytes; this release reads version 1 with 160"};
    LogHeader header;
    header.sectors = load_le<std::uint64_t>(raw, at::sectors);
    header.block = load_le<std::uint32_t>(raw, at::block);
    header.started = load_le<std::uint64_t>(raw, at::started);
    header.partial = load_le<std::uint32_t>(raw, at::partial) != 0;
    header.source = load_text(std::span(raw).subspan(at::source, source_bytes));
    if (header.block < sector_bytes || header.block > 65536 || (header.block & (header.block - 1)) != 0)
        return Error{Code::corrupt, "a logical block of " + std::to_string(header.block) + " bytes"};
    return header;
}

RawRecord encode(const Record& record) {
    RawRecord raw{};
    store_le(raw, at::number, record.number);
    store_le(raw, at::time, record.time);
    store_le(raw, at::end, record.end);
    store_le(raw, at::order, record.order);
    store_le(raw, at::sector, record.sector);
    store_le(raw, at::length, record.sectors);
    store_le(raw, at::data, record.data);
    store_le(raw, at::op, static_cast<std::uint32_t>(record.op));
    store_le(raw, at::flags, record.flags);
    store_le(raw, at::outcome, static_cast<std::uint32_t>(record.outcome));
    store_le(raw, at::error, record.error);
    store_le(raw, at::torn_first, record.torn_first);
    store_le(raw, at::torn_count, record.torn_count);
    std::copy(record.hash.begin(), record.hash.end(), raw.begin() + at::hash);
    store_text(std::span(raw).subspan(at::label, label_bytes), record.label);
    return raw;
}

Record decode(const RawRecord& raw) {
    Record record;
    record.number = load_le<std::uint64_t>(raw, at::number);
    record.time = load_le<std::uint64_t>(raw, at::time);
    record.end = load_le<std::uint64_t>(raw, at::end);
    record.order = load_le<std::uint64_t>(raw, at::order);
    record.sector = load_le<std::uint64_t>(raw, at::sector);
    record.sectors = load_le<std::uint64_t>(raw, at::length);
    record.data = load_le<std::uint64_t>(raw, at::data);
    record.op = static_cast<Op>(load_le<std::uint32_t>(raw, at::op));
    record.flags = load_le<std::uint32_t>(raw, at::flags);
    record.outcome = static_cast<Outcome>(load_le<std::uint32_t>(raw, at::outcome));
    record.error = load_le<std::uint32_t>(raw, at::error);
    record.torn_first = load_le<std::uint32_t>(raw, at::torn_first);
    record.torn_count = load_le<std::uint32_t>(raw, at::torn_count);
    std::copy_n(raw.begin() + at::hash, record.hash.size(), record.hash.begin());
    record.label = load_text(std::span(raw).subspan(at::label, label_bytes));
    return record;
}

// Empty: nothing is wrong with it.
std::string fault(const Record& record, std::uint64_t number, const LogHeader& header) {
    if (record.number != number) return "it says that it is number " + std::to_string(record.number);
    if (record.op > Op::mark) return "an operation " + std::to_string(static_cast<std::uint32_t>(record.op));
    if (record.outcome > Outcome::torn)
        return "an outcome " + std::to_string(static_cast<std::uint32_t>(record.outcome));
    if (record.sector > header.sectors || record.sectors > header.sectors - record.sector)
        return "sectors " + std::to_string(record.sector) + " + " + std::to_string(record.sectors) +
               " of a device that has " + std::to_string(header.sectors);
    if (record.torn_first > record.sectors || record.torn_count > record.sectors - record.torn_first)
        return "torn outside itself";
    if (record.has_data() && record.data > INT64_MAX - record.sectors * sector_bytes) return "data past any file's end";
    return {};
}

Status write_whole(int descriptor, const std::string& path, std::uint64_t offset, std::span<const std::byte> from) {
    while (!from.empty()) {
        const auto done = ::pwrite(descriptor, from.data(), from.size(), static_cast<off_t>(offset));
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) return system_error("cannot write to " + path);
        from = from.subspan(static_cast<std::size_t>(done));
        offset += static_cast<std::uint64_t>(done);
    }
    return ok();
}

Status read_whole(int descriptor, const std::string& path, std::uint64_t offset, std::span<std::byte> into) {
    while (!into.empty()) {
        const auto done = ::pread(descriptor, into.data(), into.size(), static_cast<off_t>(offset));
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) return system_error("cannot read " + path);
        if (done == 0) return Error{Code::corrupt, path + " ends before byte " + std::to_string(offset + into.size())};
        into = into.subspan(static_cast<std::size_t>(done));
        offset += static_cast<std::uint64_t>(done);
    }
    return ok();
}

std::string records_path(const std::string& directory) {
    return directory + "/records";
}

}  // namespace

Hash hash_of(std::span<const std::byte> data) {
    std::array<unsigned char, EVP_MAX_MD_SIZE> whole{};
    Hash half{};
    if (::EVP_Digest(data.data(), data.size(), whole.data(), nullptr, ::EVP_sha256(), nullptr) != 1) return half;
    std::memcpy(half.data(), whole.data(), half.size());
    return half;
}

std::string hash_text(const Hash& hash) {
    constexpr char digits[] = "0123456789abcdef";
    std::string text;
    for (const auto byte : hash) {
        text += digits[std::to_integer<unsigned>(byte) >> 4];
        text += digits[std::to_integer<unsigned>(byte) & 15];
    }
    return text;
}

const char* op_text(Op op) {
    constexpr std::array names = {"read", "write", "discard", "zero", "flush", "mark"};
    return names.at(static_cast<std::size_t>(op));
}

const char* outcome_text(Outcome outcome) {
    constexpr std::array names = {"pending", "through", "dropped", "failed", "torn"};
    return names.at(static_cast<std::size_t>(outcome));
}

std::string flags_text(std::uint32_t flags) {
    std::string text;
    const auto add = [&](std::uint32_t flag, const char* name) {
        if ((flags & flag) != 0) text += (text.empty() ? "" : ",") + std::string(name);
    };
    add(flag_fua, "FUA");
    add(flag_meta, "META");
    add(flag_sync, "SYNC");
    return text;
}

// ------------------------------------------------------------------ writer ---

Result<std::unique_ptr<LogWriter>> LogWriter::create(const std::string& directory, const LogHeader& header) {
    if (::mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST)
        return system_error("cannot make the directory " + directory + " for the log");
    const auto path = records_path(directory);
    const int records = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (records < 0 && errno == EEXIST)
        return Error{Code::busy, directory + " holds a log already; remove it or name another directory"};
    if (records < 0) return system_error("cannot make " + path);
    const int data = ::open((directory + "/data").c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (data < 0) {
        const auto error = system_error("cannot make " + directory + "/data");
        ::close(records);
        return error;
    }
    std::unique_ptr<LogWriter> writer(new LogWriter(directory, records, data));
    if (auto done = write_whole(records, path, 0, encode(header)); !done) return done.error();
    return writer;
}

LogWriter::~LogWriter() {
    // What stays too long is only space.
    if (data_size_ > data_used_) [[maybe_unused]]
        const int ignored = ::ftruncate(data_, static_cast<off_t>(data_used_));
    ::close(data_);
    ::close(records_);
}

std::string LogWriter::data_path() const {
    return directory_ + "/data";
}

Status LogWriter::append(Record& record) {
    record.number = count_ + 1;
    if (auto done = update(record); !done) return done;
    count_++;
    return ok();
}

Status LogWriter::update(const Record& record) {
    return write_whole(records_, records_path(directory_), header_bytes + (record.number - 1) * record_bytes,
                       encode(record));
}

Result<std::uint64_t> LogWriter::reserve(std::uint64_t sectors) {
    const auto offset = data_used_;
    const auto bytes = (sectors * sector_bytes + data_alignment - 1) / data_alignment * data_alignment;
    if (data_size_ < offset + bytes) {
        const auto step = std::max(bytes, data_step);
        const int error = ::posix_fallocate(data_, static_cast<off_t>(offset), static_cast<off_t>(step));
        if (error != 0) return system_error("cannot make room in " + data_path(), error);
        data_size_ = offset + step;
    }
    data_used_ += bytes;
    return offset;
}

Status LogWriter::write_data(std::uint64_t offset, std::span<const std::byte> data) {
    return write_whole(data_, data_path(), offset, data);
}

Status LogWriter::read_data(std::uint64_t offset, std::span<std::byte> into) {
    return read_whole(data_, data_path(), offset, into);
}

// ------------------------------------------------------------------ reader ---

Result<std::unique_ptr<LogReader>> LogReader::open(const std::string& directory) {
    std::unique_ptr<LogReader> reader(new LogReader);
    reader->directory_ = directory;
    const auto path = records_path(directory);
    const int records = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (records < 0) return system_error("cannot open " + path + " of the log " + directory);
    auto loaded = reader->load(records);
    ::close(records);
    if (!loaded) return loaded.error().in(path);
    reader->data_ = ::open((directory + "/data").c_str(), O_RDONLY | O_CLOEXEC);
    if (reader->data_ < 0) return system_error("cannot open " + directory + "/data of the log");
    return reader;
}

LogReader::~LogReader() {
    if (data_ >= 0) ::close(data_);
}

Status LogReader::load(int records) {
    struct ::stat status {};
    if (::fstat(records, &status) != 0) return system_error("cannot examine it");
    const auto size = static_cast<std::uint64_t>(status.st_size);
    if (size < header_bytes) return Error{Code::corrupt, "too short for a log of dmu-debug"};
    RawHeader raw_header{};
    if (auto done = read_whole(records, "it", 0, raw_header); !done) return done;
    auto header = decode_header(raw_header);
    if (!header) return header.error();
    header_ = std::move(*header);

    const auto count = (size - header_bytes) / record_bytes;
    constexpr std::uint64_t batch = 4096;
    std::vector<RawRecord> raw;
    records_.reserve(count);
    for (std::uint64_t first = 0; first < count; first += batch) {
        raw.resize(std::min(batch, count - first));
        if (auto done =
                read_whole(records, "it", header_bytes + first * record_bytes, std::as_writable_bytes(std::span(raw)));
            !done)
            return done;
        for (const auto& one : raw) {
            auto record = decode(one);
            const auto number = records_.size() + 1;
            if (const auto wrong = fault(record, number, header_); !wrong.empty())
                return Error{Code::corrupt, "record " + std::to_string(number) + ": " + wrong};
            records_.push_back(std::move(record));
        }
    }
    return ok();
}

Status LogReader::read_data(const Record& record, std::uint64_t from, std::span<std::byte> into) const {
    if (!record.has_data())
        return Error{Code::not_found, directory_ + ": the data of record " + std::to_string(record.number) +
                                          " was not kept; log with data to replay"};
    if (from > record.sectors * sector_bytes || into.size() > record.sectors * sector_bytes - from)
        return Error{Code::invalid, "outside the data of record " + std::to_string(record.number)};
    return read_whole(data_, directory_ + "/data", record.data + from, into);
}

Result<Hash> LogReader::hash(const Record& record) const {
    if (record.has_hash() || !record.has_data()) return record.hash;
    std::vector<std::byte> data(record.sectors * sector_bytes);
    if (auto done = read_data(record, 0, data); !done) return done.error();
    return hash_of(data);
}

}  // namespace dmu::debug
