// SPDX-License-Identifier: GPL-2.0-or-later
// Any bytes as a LUKS header. Not opened: what is right takes its time on purpose.
#include "formats/crypto/luks.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const auto header = dmu::crypto::decode_luks(std::as_bytes(std::span(data, size)), 2 << 20, "fuzz");
    if (header) (void)dmu::crypto::encode_luks(*header);
    return 0;
}
