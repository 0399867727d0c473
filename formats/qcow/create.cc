// SPDX-License-Identifier: GPL-2.0-or-later
#include "formats/qcow/create.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstring>
#include <vector>

#include "formats/core/units.h"
#include "formats/crypto/secret.h"
#include "formats/qcow/header.h"

namespace dmu::qcow {

namespace {

Error wrong(const BlockFile& file, Code code, const std::string& what) {
    return {code, "create qcow image '" + file.name() + "': " + what};
}

// Tables of 4 KiB as qemu's, of a whole cluster where that is more: a cold sequential
// read then asks once in 512 MiB.
unsigned l2_bits_for(unsigned cluster_bits) {
    if (cluster_bits == min_cluster_bits) return 12;
    return std::max(9u, cluster_bits - 3);
}

Status take_options(const BlockFile& file, const CreateOptions& options, Header& header) {
    for (const auto& [key, value] : options.options) {
        if (key == "key-file") {
            const auto password = crypto::read_key_file(value);
            if (!password) return password.error();
            header.encrypted = true;
        } else if (key == "l2-bits") {
            unsigned bits = 0;
            const auto* end = value.data() + value.size();
            const auto parsed = std::from_chars(value.data(), end, bits);
            if (parsed.ec != std::errc() || parsed.ptr != end || bits < min_l2_bits || bits > max_l2_bits)
                return wrong(file, Code::invalid, "l2-bits is '" + value + "'; 6 to 13 are valid");
            header.l2_bits = bits;
        } else {
            return wrong(file, Code::invalid, "there is no option '" + key + "'; there are key-file and l2-bits");
        }
    }
    return ok();
}

Result<Header> plan(const BlockFile& file, const CreateOptions& options) {
    const std::uint32_t cluster = options.cluster_size != 0 ? options.cluster_size : options.backing ? 512 : 4096;
    if (!std::has_single_bit(cluster) || cluster < 512 || cluster > 65536)
        return wrong(
            file, Code::invalid,
            "a cluster of " + std::to_string(cluster) + " bytes; a power of two from 512 to 65536 is possible");
    if (options.virtual_size == 0) return wrong(file, Code::invalid, "a disk of 0 bytes can't be created");
    if (options.virtual_size > max_size) return wrong(file, Code::invalid, "the disk is too large");

    Header header;
    header.size = align_up(options.virtual_size, sector_size);
    header.cluster_bits = static_cast<unsigned>(std::countr_zero(cluster));
    header.l2_bits = l2_bits_for(header.cluster_bits);
    header.l1_offset = header_bytes;
    auto taken = take_options(file, options, header);
    if (!taken) return taken.error();
    if (header.l1_entries() > max_l1_bytes / 8)
        return wrong(file, Code::invalid,
                     "the disk is too large for clusters of " + std::to_string(cluster) +
                         " bytes; take larger ones (at most 65536)");
    if (options.backing) {
        const auto& path = options.backing->path;
        if (path.empty() || path.size() > max_name_bytes || path.find('\0') != std::string::npos)
            return wrong(file, Code::invalid, "the name of the backing file must have 1 to 1023 bytes, no NUL");
        header.name_offset = header_bytes;
        header.name_bytes = static_cast<std::uint32_t>(path.size());
        header.l1_offset = align_up(header_bytes + path.size(), 8);
    }
    return header;
}

Status write_zeros(BlockFile& file, std::uint64_t start, std::uint64_t end) {
    const std::vector<std::byte> zeros(std::min<std::uint64_t>(end - start, 1 << 20));
    while (start < end) {
        const auto bytes = std::min<std::uint64_t>(zeros.size(), end - start);
        auto done = file.write(start, std::span(zeros).first(bytes));
        if (!done) return done;
        start += bytes;
    }
    return ok();
}

}  // namespace

Status create_image(BlockFile& file, const CreateOptions& options) {
    const auto header = plan(file, options);
    if (!header) return header.error();
    if (file.fixed_size())
        return wrong(file, Code::unsupported, "a qcow image grows, a block device does not; use a file");
    const auto size = file.size();
    if (!size) return size.error();
    if (*size != 0) return wrong(file, Code::invalid, "the file is not empty");

    // The header last: before it there is no image.
    auto done = write_zeros(file, header_bytes, header->l1_end());
    if (done && options.backing)
        done = file.write(header->name_offset, std::as_bytes(std::span(options.backing->path)));
    if (done) done = file.sync();
    if (done) done = file.write(0, encode_header(*header));
    return done ? file.sync() : done;
}

}  // namespace dmu::qcow
