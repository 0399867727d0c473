// SPDX-License-Identifier: GPL-2.0-or-later
#include "logon_key.h"

#include <linux/keyctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace dmu {

Result<LogonKey> LogonKey::add(const std::string& description, std::span<const std::byte> secret) {
    const long serial =
        syscall(SYS_add_key, "logon", description.c_str(), secret.data(), secret.size(), KEY_SPEC_THREAD_KEYRING);
    if (serial >= 0) return LogonKey(static_cast<std::int32_t>(serial));
    const int number = errno;
    Error error = system_error("giving the kernel the key '" + description + "'", number);
    if (number == ENOSYS) error.message += "; this kernel has no key rings (CONFIG_KEYS)";
    return error;
}

LogonKey::~LogonKey() {
    if (serial_ == 0) return;
    // Invalidated it is gone at once, whoever may have linked it.
    (void)syscall(SYS_keyctl, KEYCTL_INVALIDATE, serial_);
    (void)syscall(SYS_keyctl, KEYCTL_UNLINK, serial_, KEY_SPEC_THREAD_KEYRING);
}

LogonKey::LogonKey(LogonKey&& other) noexcept : serial_(std::exchange(other.serial_, 0)) {
}

}  // namespace dmu
