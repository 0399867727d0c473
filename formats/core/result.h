// SPDX-License-Identifier: GPL-2.0-or-later
// Errors as values: what kind (a code that maps to an errno at the edges) and
// a message for the administrator: what was tried, on which file, what was
// found, what to do.
#pragma once

#include <cerrno>
#include <string>
#include <utility>
#include <variant>

namespace dmu {

enum class Code {
    invalid,      // the caller or the configuration asked for nonsense
    not_found,    // no such file, key, device
    denied,       // not allowed: permissions, path outside the allowed roots
    busy,         // locked or attached elsewhere
    unsupported,  // well-formed, but not something this release can do
    corrupt,      // an image contradicts its format's rules
    no_space,     // ENOSPC, EDQUOT
    io,           // the operating system reported an error
};

struct Error {
    Code code = Code::io;
    std::string message;

    // The errno that stands for it on the wire to the kernel; never 0.
    int to_errno() const;
    // "context: message"
    Error in(const std::string& context) const { return {code, context + ": " + message}; }
};

// Names the failed system call's errno in words; ENOSPC, ENOENT, EACCES, EBUSY become their codes.
Error system_error(const std::string& what, int number = errno);

template <typename T>
class [[nodiscard]] Result {
public:
    Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
    Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

    explicit operator bool() const { return state_.index() == 0; }
    T& operator*() { return std::get<0>(state_); }
    const T& operator*() const { return std::get<0>(state_); }
    T* operator->() { return &std::get<0>(state_); }
    const T* operator->() const { return &std::get<0>(state_); }
    const Error& error() const { return std::get<1>(state_); }

private:
    std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
public:
    Result() = default;
    Result(Error error) : error_(std::move(error)), failed_(true) {}

    explicit operator bool() const { return !failed_; }
    const Error& error() const { return error_; }

private:
    Error error_;
    bool failed_ = false;
};

using Status = Result<void>;
inline Status ok() {
    return {};
}

}  // namespace dmu
