// SPDX-License-Identifier: GPL-2.0-or-later
#include "formats/crypto/secret.h"

#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <sys/stat.h>
#include <unistd.h>

namespace dmu::crypto {

namespace {

constexpr off_t largest_key_file = 8192;

Result<Secret> read_open(int descriptor, const std::string& path) {
    struct stat status {};
    if (::fstat(descriptor, &status) != 0) return system_error("examine the key file '" + path + "'");
    if (!S_ISREG(status.st_mode)) return Error{Code::invalid, "the key file '" + path + "' is not a regular file"};
    if (status.st_size == 0) return Error{Code::invalid, "the key file '" + path + "' is empty"};
    if (status.st_size > largest_key_file)
        return Error{Code::invalid, "the key file '" + path + "' has more than 8192 bytes; is it the right file?"};
    Secret secret(static_cast<std::size_t>(status.st_size));
    for (std::size_t done = 0; done < secret.size();) {
        const auto got = ::read(descriptor, secret.span().data() + done, secret.size() - done);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return system_error("read the key file '" + path + "'");
        if (got == 0) return Error{Code::io, "the key file '" + path + "' became shorter while it was read"};
        done += static_cast<std::size_t>(got);
    }
    return secret;
}

}  // namespace

void Secret::wipe() {
    if (!bytes_.empty()) OPENSSL_cleanse(bytes_.data(), bytes_.size());
}

Result<Secret> read_key_file(const std::string& path) {
    // Not to hang on a FIFO.
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (descriptor < 0) return system_error("open the key file '" + path + "'");
    auto secret = read_open(descriptor, path);
    ::close(descriptor);
    return secret;
}

Status random_bytes(std::span<std::byte> into) {
    if (RAND_bytes(reinterpret_cast<unsigned char*>(into.data()), static_cast<int>(into.size())) == 1) return ok();
    return Error{Code::io, "the system's random generator gives nothing"};
}

}  // namespace dmu::crypto
