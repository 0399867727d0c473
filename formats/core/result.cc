// SPDX-License-Identifier: GPL-2.0-or-later
#include "formats/core/result.h"

#include <system_error>

namespace dmu {

namespace {

Code code_of(int number) {
    switch (number) {
        case ENOSPC:
        case EDQUOT:
            return Code::no_space;
        case ENOENT:
        case ENOTDIR:
            return Code::not_found;
        case EACCES:
        case EPERM:
        case EROFS:
        case ELOOP:
        case EXDEV:
            return Code::denied;
        case EBUSY:
        case ETXTBSY:
        case EEXIST:
            return Code::busy;
        default:
            return Code::io;
    }
}

}  // namespace

int Error::to_errno() const {
    switch (code) {
        case Code::invalid:
            return EINVAL;
        case Code::not_found:
            return ENOENT;
        case Code::denied:
            return EACCES;
        case Code::busy:
            return EBUSY;
        case Code::unsupported:
            return EOPNOTSUPP;
        case Code::no_space:
            return ENOSPC;
        case Code::corrupt:
        case Code::io:
            return EIO;
    }
    return EIO;
}

Error system_error(const std::string& what, int number) {
    return {code_of(number), what + ": " + std::system_category().message(number)};
}

}  // namespace dmu
