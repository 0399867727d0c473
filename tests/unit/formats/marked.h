// SPDX-License-Identifier: GPL-2.0-or-later
// Guest data that is known again wherever it lies: each sector says in plain text which one
// it is, and of which write; the rest of it is zeros.
#pragma once

#include "tests/unit/formats/model.h"

namespace dmu {

inline constexpr std::uint64_t plain_mark = 0x504c41494e000000;  // "PLAIN"; 12 bits of write, 12 of sector
inline constexpr std::uint64_t most_marked = 4096;

inline Bytes marked_data(std::uint64_t sector, std::uint64_t count, std::uint64_t write) {
    EXPECT_LE(sector + count, most_marked);
    EXPECT_LT(write, most_marked);
    Bytes bytes(count * sector_size);
    for (std::uint64_t i = 0; i < count; i++)
        store_be<std::uint64_t>(bytes, i * sector_size, plain_mark | write << 12 | (sector + i));
    return bytes;
}

// A sector of it, as it came from the guest, lies in a file.
inline bool holds_plain_text(const Bytes& file) {
    for (std::size_t at = 0; at + 8 <= file.size(); at += sector_size)
        if (load_be<std::uint64_t>(file, at) >> 24 == plain_mark >> 24) return true;
    return false;
}

class MarkedModel {
public:
    explicit MarkedModel(const Bytes& content) : sectors_(content) {}

    // The data to write.
    Bytes begun(std::uint64_t sector, std::uint64_t count, std::uint64_t write) {
        auto data = marked_data(sector, count, write);
        for (std::uint64_t i = 0; i < count; i++)
            sectors_.begun(sector + i, 1, load_be<std::uint64_t>(data, i * sector_size));
        return data;
    }
    void begun_zeros(std::uint64_t sector, std::uint64_t count) { sectors_.begun(sector, count, 0); }
    void flushed() { sectors_.flushed(); }

    ::testing::AssertionResult is_current(const Bytes& content) const {
        const auto whole = is_whole(content);
        return whole ? sectors_.is_current(content) : whole;
    }
    ::testing::AssertionResult is_possible(const Bytes& content) const {
        const auto whole = is_whole(content);
        return whole ? sectors_.is_possible(content) : whole;
    }

private:
    // Old or new, never something that nobody wrote.
    static ::testing::AssertionResult is_whole(const Bytes& content) {
        for (std::size_t at = 0; at < content.size(); at++)
            if (at % sector_size >= 8 && content[at] != std::byte{0})
                return ::testing::AssertionFailure() << "garbage in sector " << at / sector_size;
        return ::testing::AssertionSuccess();
    }

    SectorModel sectors_;
};

}  // namespace dmu
