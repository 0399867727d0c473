// SPDX-License-Identifier: GPL-2.0-or-later
// Images that qemu makes and writes at random, in every variant it has, with its zeros,
// discards and compressed clusters: read by us as it reads them, written on by us, read by
// it, written on by it again.
#include "formats/core/image_neighbours.h"
#include "tests/unit/formats/qcow2_qemu.h"

namespace dmu {
namespace {

struct Maker {
    const char* name;
    const char* format;
    const char* options;  // as of qemu-img create -o
    std::uint64_t cluster;
    const char* method = "";  // of encryption
    const char* base = "";    // the format of the backing file; empty: none
    bool compresses = true;
    bool overwrites = true;  // false: each cluster only once
};

void PrintTo(const Maker& maker, std::ostream* out) {
    *out << maker.name;
}

constexpr std::uint64_t kib = 1024;
const Maker makers[] = {
    {"V2", "qcow2", "compat=0.10", 64 * kib},
    {"V2Backing", "qcow2", "compat=0.10,cluster_size=4k", 4 * kib, "", "raw"},
    {"Backing", "qcow2", "cluster_size=4k", 4 * kib, "", "raw"},
    {"BackingQcow2", "qcow2", "compression_type=zstd", 64 * kib, "", "qcow2"},
    {"Cluster512", "qcow2", "cluster_size=512", 512},
    {"Cluster1K", "qcow2", "cluster_size=1k", kib, "", "raw"},
    {"Cluster32K", "qcow2", "cluster_size=32k", 32 * kib},
    {"Cluster2M", "qcow2", "cluster_size=2M", 2048 * kib, "", "raw"},
    {"Refcount1", "qcow2", "cluster_size=512,refcount_bits=1", 512, "", "", false},
    {"Refcount2", "qcow2", "cluster_size=512,refcount_bits=2", 512, "", "", false},
    {"Refcount4", "qcow2", "cluster_size=1k,refcount_bits=4", kib},
    {"Refcount8", "qcow2", "cluster_size=4k,refcount_bits=8", 4 * kib},
    {"Refcount32", "qcow2", "cluster_size=4k,refcount_bits=32", 4 * kib},
    {"Refcount64", "qcow2", "cluster_size=512,refcount_bits=64", 512},
    {"ExtendedL2", "qcow2", "extended_l2=on,cluster_size=16k", 16 * kib},
    {"ExtendedL2Backing", "qcow2", "extended_l2=on", 64 * kib, "", "raw"},
    {"ExtendedL2Zstd", "qcow2", "extended_l2=on,cluster_size=128k,compression_type=zstd", 128 * kib, "", "qcow2"},
    {"DataFile", "qcow2", "data_file=data.raw", 64 * kib, "", "", false},
    {"DataFileBacking", "qcow2", "data_file=data.raw,cluster_size=4k", 4 * kib, "", "raw", false},
    {"DataFileRaw", "qcow2", "data_file=data.raw,data_file_raw=on,cluster_size=4k", 4 * kib, "", "", false},
    {"DataFileExtended", "qcow2", "data_file=data.raw,extended_l2=on,cluster_size=16k", 16 * kib, "", "", false},
    {"Zlib", "qcow2", "compression_type=zlib,cluster_size=16k", 16 * kib},
    {"Zstd", "qcow2", "compression_type=zstd,cluster_size=16k", 16 * kib},
    {"Lazy", "qcow2", "lazy_refcounts=on,cluster_size=4k", 4 * kib},
    {"Metadata", "qcow2", "preallocation=metadata,cluster_size=4k", 4 * kib, "", "", false},
    {"MetadataExtended", "qcow2", "preallocation=metadata,extended_l2=on", 64 * kib, "", "", false},
    {"Falloc", "qcow2", "preallocation=falloc", 64 * kib, "", "", false},
    {"Full", "qcow2", "preallocation=full,cluster_size=8k", 8 * kib, "", "", false},
    {"Luks", "qcow2", "cluster_size=4k", 4 * kib, "luks", "raw", false},
    {"Aes", "qcow2", "cluster_size=64k", 64 * kib, "aes", "", false},
    {"Qcow", "qcow", "", 4 * kib},
    {"QcowBacking", "qcow", "", 512, "", "qcow"},
    {"QcowAes", "qcow", "", 4 * kib, "aes", "", false},
    {"Sparse", "vmdk", "subformat=monolithicSparse", 64 * kib, "", "", false},
    {"SparseZeroed", "vmdk", "subformat=monolithicSparse,zeroed_grain=on", 64 * kib, "", "", false},
    {"SparseBacking", "vmdk", "subformat=monolithicSparse,zeroed_grain=on", 64 * kib, "", "vmdk", false},
    {"Flat", "vmdk", "subformat=monolithicFlat", 64 * kib, "", "", false},
    {"Split", "vmdk", "subformat=twoGbMaxExtentSparse,adapter_type=lsilogic", 64 * kib, "", "", false},
    {"SplitFlat", "vmdk", "subformat=twoGbMaxExtentFlat", 64 * kib, "", "", false},
    {"Stream", "vmdk", "subformat=streamOptimized", 64 * kib, "", "", true, false},
};

class QemuWritesRandom : public QemuImages, public ::testing::WithParamInterface<Maker> {
protected:
    QemuWritesRandom() {
        format_ = GetParam().format;
        method_ = GetParam().method;
        write_file(directory_ / "key", Bytes(9, std::byte{'k'}));
        write_file(directory_ / "noise", pattern(300000, seed_));
    }
    std::string image() const { return "top." + format_; }

    void make() {
        const std::string base_format = GetParam().base, base = "base." + base_format;
        std::string options = GetParam().options;
        const auto add = [&options](const std::string& more) { options += (options.empty() ? "" : ",") + more; };
        if (!base_format.empty()) {
            // Shorter than the overlay, or longer.
            const auto size = (2000 + random_() % 8000) * 512;
            if (base_format == "raw")
                write_file(directory_ / base, pattern(size, random_()));
            else
                qemu("qemu-img create -q -f " + base_format + " " + base + " " + std::to_string(size) +
                     " && qemu-io -f " + base_format + " -c 'write -s noise 0 300000' -c 'write -P 5 700k 300k' " +
                     base + " >/dev/null");
            if (base_format == "vmdk") size_ = size;
            add("backing_file=" + base + ",backing_fmt=" + base_format);
        }
        if (!method_.empty()) add("encrypt.format=" + method_ + ",encrypt.key-secret=s");
        if (method_ == "luks") add("encrypt.iter-time=10");
        qemu("qemu-img create -q" + (method_.empty() ? "" : secret()) + " -f " + format_ +
             (options.empty() ? "" : " -o " + options) + " " + image() + " " + std::to_string(size_));
    }
    static std::string range(std::uint64_t at, std::uint64_t length) {
        return " " + std::to_string(at) + " " + std::to_string(length) + "'";
    }
    std::string byte() { return std::to_string(1 + random_() % 255); }
    // It refuses to compress into a cluster that is there: each at most once, before the rest.
    std::string compressed() {
        const auto cluster = GetParam().cluster;
        std::string commands;
        for (auto at = random_() % 4 * cluster; at + cluster <= size_;
             at += (1 + random_() % (size_ / cluster / 8 + 1)) * cluster)
            commands += " -c 'write -c " + (random_() % 3 == 0 ? "-s noise" : "-P " + byte()) + range(at, cluster);
        return commands;
    }
    std::string command() {
        const auto kind = random_() % 9;
        const auto at = random_() % (size_ / 512) * 512;
        const auto length = std::min(size_ - at, (1 + random_() % 500) * 512);
        if (kind == 0) return " -c 'write -z" + range(at, length);
        if (kind == 1) return " -c 'write -z -u" + range(at, length);
        if (kind < 4 && format_ == "qcow2") return " -c 'discard" + range(at, length);
        if (kind == 4) return " -c 'write -s noise" + range(at, length);
        // Of the last sector, too, no more than there is.
        const auto unaligned = at + random_() % std::min<std::uint64_t>(512, length / 2 + 1);
        if (kind < 7) return " -c 'write -P " + byte() + range(unaligned, length / 2);
        return " -c 'write -P " + byte() + range(at, length);
    }
    void write_by_qemu(std::string commands, int count) {
        for (int i = 0; i < count; i++) commands += command();
        const auto said = qemu("qemu-io -d unmap" + commands + node(image()));
        EXPECT_EQ(said.find("failed"), std::string::npos) << commands << said;
    }
    Bytes seen_by_qemu() {
        qemu("qemu-img convert" + node(image()) + " -O raw out.raw");
        return read_file(directory_ / "out.raw");
    }
    void is_right(const std::string& when) {
        const auto file = open_file(directory_ / image(), {false, true});
        ASSERT_OK(file);
        ImageNeighbours neighbours(directory_ / image(), PathPolicy{}, false);
        const auto report = find_format(format_)->check(**file, {Repair::none, &neighbours});
        EXPECT_TRUE(format_ == "qcow2" ? is_clean(report) : is_sound(report)) << when;
    }
    void write_by_us(Bytes& model) {
        auto chain = open(image(), true);
        ASSERT_NE(chain, nullptr);
        StandIn target(*chain);
        if (random_() % 2) target.lease_ahead(1 + random_() % 200000);
        for (int i = 0; i < 15; i++) {
            const auto offset = random_() % model.size();
            const auto length = std::min<std::uint64_t>(1 + random_() % 100000, model.size() - offset);
            const auto bytes = pattern(length, random_());
            ASSERT_OK(target.write({offset}, bytes));
            std::copy(bytes.begin(), bytes.end(), model.begin() + static_cast<std::ptrdiff_t>(offset));
        }
        const auto grain = std::uint64_t{chain->top().info().grain};
        const auto start = random_() % align_up(model.size(), grain) / grain * grain,
                   end = std::min(start + 4 * grain, model.size());
        ASSERT_OK(target.discard({{start}, end - start}));
        if (chain->top().info().discards_to_zero)
            std::fill(model.begin() + static_cast<std::ptrdiff_t>(start),
                      model.begin() + static_cast<std::ptrdiff_t>(end), std::byte{0});
        ASSERT_OK(target.flush());
        ASSERT_OK(target.give_back());
        ASSERT_OK(chain->top().close());
    }

    std::uint64_t size_ = (2000 + random_() % 4000) * 512;
};

INSTANTIATE_TEST_SUITE_P(Maker, QemuWritesRandom, ::testing::ValuesIn(makers),
                         [](const auto& info) { return info.param.name; });

TEST_P(QemuWritesRandom, ReadAndWrittenByUs) {
    ASSERT_NO_FATAL_FAILURE(make());
    const auto first = GetParam().compresses ? compressed() : "";
    write_by_qemu(first, GetParam().overwrites ? 25 : 0);
    auto model = seen_by_qemu();
    ASSERT_EQ(model.size(), size_);
    we_read(image(), model);
    is_right("by qemu");
    // Starting qemu is what takes the time.
    if (!GetParam().overwrites || random_() % 2) return;
    ASSERT_NO_FATAL_FAILURE(write_by_us(model));
    is_right("by us");
    if (format_ == "qcow2") qemu("qemu-img check -q" + node(image()));
    EXPECT_TRUE(seen_by_qemu() == model);
    if (random_() % 2) return;
    write_by_qemu("", 15);
    we_read(image(), seen_by_qemu());
    is_right("by qemu again");
}

}  // namespace
}  // namespace dmu
