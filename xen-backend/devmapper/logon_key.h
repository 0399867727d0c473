// SPDX-License-Identifier: GPL-2.0-or-later
// A key that the kernel has and nobody can read back: of type "logon", in the keyring of
// the calling thread, which nobody else searches. A crypt target's table line names it as
// ":BYTES:logon:DESCRIPTION", and its constructor takes a copy.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "formats/core/result.h"

namespace dmu {

class LogonKey {
public:
    // description: "dmu:..." (the kernel wants a prefix). On the thread that loads the table.
    static Result<LogonKey> add(const std::string& description, std::span<const std::byte> secret);
    // Takes it away from the kernel; what was made with it goes on. On the same thread.
    ~LogonKey();
    LogonKey(LogonKey&& other) noexcept;
    LogonKey& operator=(LogonKey&&) = delete;
    LogonKey(const LogonKey&) = delete;
    LogonKey& operator=(const LogonKey&) = delete;

private:
    explicit LogonKey(std::int32_t serial) : serial_(serial) {}

    std::int32_t serial_;
};

}  // namespace dmu
