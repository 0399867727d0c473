// SPDX-License-Identifier: GPL-2.0-or-later
#include "formats/qcow2/create_options.h"

#include <algorithm>
#include <bit>
#include <charconv>

#include "formats/core/units.h"

namespace dmu::qcow2 {

namespace {

class Planner {
public:
    Planner(const BlockFile& file, const CreateOptions& options) : file_(file), options_(options) {}

    Result<CreatePlan> run() {
        auto done = take_cluster_size();
        for (const auto& [key, value] : options_.options)
            if (done) done = take(key, value);
        if (done) done = check_version();
        if (done) done = check_data_file();
        if (done) done = check_encryption();
        if (done) done = check_preallocation();
        if (done) done = take_backing();
        if (done) done = take_size();
        if (!done) return done.error();
        return plan_;
    }

private:
    Error wrong(const std::string& what) const {
        return {Code::invalid, "create qcow2 image '" + file_.name() + "': " + what};
    }

    Status take_cluster_size() {
        const auto cluster = options_.cluster_size != 0 ? options_.cluster_size : 65536;
        if (!std::has_single_bit(cluster) || cluster < 512 || cluster > 2 << 20)
            return wrong("a cluster of " + std::to_string(cluster) +
                         " bytes; a power of two from 512 to 2097152 is possible");
        header_.cluster_bits = static_cast<unsigned>(std::countr_zero(cluster));
        return ok();
    }

    Status take(const std::string& key, const std::string& value) {
        if (key == "compat") return take_compat(value);
        if (key == "preallocation") return take_preallocation(value);
        if (key == "refcount_bits") return take_refcount_bits(value);
        if (key == "compression_type") return take_compression(value);
        if (key == "lazy_refcounts") return take_flag(key, value, header_.compatible, compatible_lazy_refcounts);
        if (key == "extended_l2") return take_flag(key, value, header_.incompatible, incompatible_extended_l2);
        if (key == "data_file_raw") return take_flag(key, value, header_.autoclear, autoclear_raw_data_file);
        if (key == "data_file") {
            plan_.data_file = value;
            return value.empty() ? wrong("option 'data_file' names no file") : ok();
        }
        if (key == "encryption") return take_encryption(value);
        if (key == "iter_time") return take_iteration_time(value);
        if (key == "key-file") {
            plan_.key_file = value;
            return value.empty() ? wrong("option 'key-file' names no file") : ok();
        }
        return wrong("there is no option '" + key + "'");
    }

    Error no_value(const std::string& key, const std::string& value, const std::string& possible) const {
        return wrong("option '" + key + "=" + value + "'; " + possible + " are possible");
    }

    Status take_flag(const std::string& key, const std::string& value, std::uint64_t& features, std::uint64_t bit) {
        if (value != "on" && value != "off") return no_value(key, value, "on and off");
        features = value == "on" ? features | bit : features & ~bit;
        return ok();
    }

    Status take_compat(const std::string& value) {
        if (value == "0.10" || value == "v2")
            header_.version = 2;
        else if (value != "1.1" && value != "v3")
            return no_value("compat", value, "0.10 and 1.1");
        return ok();
    }

    Status take_preallocation(const std::string& value) {
        constexpr const char* names[] = {"off", "metadata", "falloc", "full"};
        const auto* found = std::find(std::begin(names), std::end(names), value);
        if (found == std::end(names)) return no_value("preallocation", value, "off, metadata, falloc and full");
        plan_.preallocation = static_cast<Preallocation>(found - names);
        return ok();
    }

    Status take_refcount_bits(const std::string& value) {
        unsigned bits = 0;
        const auto read = std::from_chars(value.data(), value.data() + value.size(), bits);
        if (read.ec != std::errc{} || read.ptr != value.data() + value.size() || bits > 64 ||
            !std::has_single_bit(bits))
            return no_value("refcount_bits", value, "1, 2, 4, 8, 16, 32 and 64");
        header_.refcount_order = static_cast<unsigned>(std::countr_zero(bits));
        return ok();
    }

    Status take_compression(const std::string& value) {
        if (value != "zlib" && value != "zstd") return no_value("compression_type", value, "zlib and zstd");
        if (value == "zlib") return ok();
        header_.compression = Compression::zstd;
        header_.incompatible |= incompatible_compression;
        return ok();
    }

    Status take_encryption(const std::string& value) {
        if (value != "aes" && value != "luks") return no_value("encryption", value, "luks and aes");
        header_.encryption = value == "aes" ? Encryption::aes : Encryption::luks;
        return ok();
    }

    Status take_iteration_time(const std::string& value) {
        constexpr std::uint32_t most = 60000;
        const auto* end = value.data() + value.size();
        const auto read = std::from_chars(value.data(), end, plan_.iteration_milliseconds);
        if (read.ec != std::errc{} || read.ptr != end || plan_.iteration_milliseconds == 0 ||
            plan_.iteration_milliseconds > most)
            return no_value("iter_time", value, "1 to 60000 milliseconds");
        return ok();
    }

    Status check_version() {
        if (header_.extended_l2() && header_.cluster_bits < 14)
            return wrong("extended L2 entries need clusters of 16 KiB or more");
        if (header_.version >= 3) return ok();
        const bool newer = header_.incompatible != 0 || header_.compatible != 0 || header_.autoclear != 0 ||
                           header_.refcount_order != 4 || !plan_.data_file.empty();
        return newer ? wrong("compat=0.10 does not have what the other options ask for") : ok();
    }

    Status check_data_file() {
        if (plan_.data_file.empty())
            return header_.autoclear != 0 ? wrong("option 'data_file_raw' needs 'data_file'") : ok();
        if (options_.neighbours == nullptr) return wrong("a data file can't be made here");
        if (header_.autoclear != 0 && options_.backing)
            return wrong("with a raw external data file there can't be a backing file");
        header_.incompatible |= incompatible_data_file;
        header_.set_extension(extension_data_file, std::as_bytes(std::span(plan_.data_file)));
        // Otherwise what is not mapped would be zeros here and something else in the raw file.
        if (header_.autoclear != 0 && plan_.preallocation == Preallocation::off)
            plan_.preallocation = Preallocation::metadata;
        return ok();
    }

    // What a hole deciphers to is garbage, so that preallocated clusters must be written.
    Status check_encryption() {
        if (header_.encryption == Encryption::none)
            return plan_.key_file.empty() ? ok() : wrong("option 'key-file' needs 'encryption=luks' (or aes)");
        if (plan_.key_file.empty()) return wrong("an encrypted image needs option 'key-file', the file of its key");
        if (header_.encryption != Encryption::luks && plan_.iteration_milliseconds != 0)
            return wrong("option 'iter_time' needs 'encryption=luks'");
        if (header_.raw_data_file()) return wrong("an encrypted data file can't be raw");
        if (plan_.preallocation == Preallocation::metadata || plan_.preallocation == Preallocation::falloc)
            return wrong("an encrypted image can be preallocated only with preallocation=full");
        return ok();
    }

    Status check_preallocation() {
        if (plan_.preallocation != Preallocation::off && options_.backing)
            return wrong("an image with a backing file can't be preallocated: it would hide the backing file");
        return ok();
    }

    Status take_backing() {
        if (!options_.backing) return ok();
        const auto& path = options_.backing->path;
        if (path.empty() || path.size() > max_name_bytes || path.find('\0') != std::string::npos)
            return wrong("the name of the backing file must have 1 to 1023 bytes, no NUL");
        header_.backing = path;
        header_.set_extension(extension_backing_format, std::as_bytes(std::span(options_.backing->format)));
        return ok();
    }

    Status take_size() {
        if (options_.virtual_size > std::uint64_t{1} << 62) return wrong("the disk is too large");
        header_.size = align_up(options_.virtual_size, sector_size);
        const auto needed = header_.l1_needed(header_.size);
        if (needed > max_l1_bytes / 8)
            return wrong("the disk is too large for clusters of " + std::to_string(header_.cluster_bytes()) +
                         " bytes; take larger ones (at most 2097152)");
        header_.l1_entries = static_cast<std::uint32_t>(std::max<std::uint64_t>(needed, 1));
        return ok();
    }

    const BlockFile& file_;
    const CreateOptions& options_;
    CreatePlan plan_;
    Header& header_ = plan_.header;
};

}  // namespace

Result<CreatePlan> plan_create(const BlockFile& file, const CreateOptions& options) {
    return Planner(file, options).run();
}

}  // namespace dmu::qcow2
