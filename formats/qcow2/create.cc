// SPDX-License-Identifier: GPL-2.0-or-later
#include "formats/qcow2/create.h"

#include <algorithm>
#include <vector>

#include "formats/core/endian.h"
#include "formats/core/units.h"
#include "formats/crypto/luks.h"
#include "formats/qcow2/create_options.h"
#include "formats/qcow2/encryption.h"
#include "formats/qcow2/qcow2_image.h"
#include "formats/qcow2/refcounts.h"

namespace dmu::qcow2 {

namespace {

constexpr std::uint64_t piece = 64 << 20;  // preallocated at a time

Error wrong(const BlockFile& file, Code code, const std::string& what) {
    return {code, "create qcow2 image '" + file.name() + "': " + what};
}

Status write_zeros(BlockFile& file, std::uint64_t start, std::uint64_t bytes) {
    const std::vector<std::byte> zeros(std::min<std::uint64_t>(bytes, 1 << 20));
    while (bytes != 0) {
        const auto part = std::min<std::uint64_t>(zeros.size(), bytes);
        auto done = file.write(start, std::span(zeros).first(part));
        if (!done) return done;
        start += part;
        bytes -= part;
    }
    return ok();
}

// Header, refcount table, its blocks, L1 table, LUKS header: in this order, from cluster 0.
struct Layout {
    std::uint64_t table = 1, blocks = 1, l1 = 1, luks = 0;  // clusters
    std::uint64_t total() const { return 1 + table + blocks + l1 + luks; }
};

Layout lay_out(const Header& header, std::uint64_t luks_bytes) {
    const auto clusters = [&](std::uint64_t bytes) {
        return align_up(bytes, header.cluster_bytes()) >> header.cluster_bits;
    };
    Layout layout;
    layout.l1 = clusters(header.l1_bytes());
    layout.luks = clusters(luks_bytes);
    while (true) {
        const auto blocks = align_up(layout.total(), header.block_clusters()) / header.block_clusters();
        const auto table = clusters(blocks * 8);
        if (blocks == layout.blocks && table == layout.table) return layout;
        layout.blocks = blocks;
        layout.table = table;
    }
}

Status write_refcounts(BlockFile& file, const Header& header, const Layout& layout) {
    std::vector<std::byte> table(layout.table << header.cluster_bits);
    for (std::uint64_t i = 0; i < layout.blocks; i++) {
        const auto offset = (1 + layout.table + i) << header.cluster_bits;
        store_be<std::uint64_t>(table, i * 8, offset);
        std::vector<std::byte> block(header.cluster_bytes());
        const auto first = i * header.block_clusters();
        for (auto c = first; c < std::min(layout.total(), first + header.block_clusters()); c++)
            store_refcount(block, header.refcount_order, c - first, 1);
        auto done = file.write(offset, block);
        if (!done) return done;
    }
    return file.write(header.refcount_table_offset, table);
}

// The header last: before it there is no image.
Status write_image(BlockFile& file, Header& header, std::span<const std::byte> luks) {
    const auto layout = lay_out(header, luks.size());
    if (layout.table << header.cluster_bits > max_refcount_table_bytes)
        return wrong(file, Code::invalid, "the disk is too large for such refcounts and clusters");
    header.refcount_table_offset = header.cluster_bytes();
    header.refcount_table_clusters = static_cast<std::uint32_t>(layout.table);
    header.l1_offset = (1 + layout.table + layout.blocks) << header.cluster_bits;
    const auto luks_offset = header.l1_offset + (layout.l1 << header.cluster_bits);
    if (!luks.empty()) set_crypto(header, {luks_offset, luks.size()});
    const auto encoded = encode_header(header);
    if (!encoded) return wrong(file, encoded.error().code, encoded.error().message);
    const auto bytes = layout.total() << header.cluster_bits;
    auto done = file.fixed_size() ? write_zeros(file, 0, bytes) : file.truncate(bytes);
    if (done) done = write_refcounts(file, header, layout);
    if (done && !luks.empty()) done = file.write(luks_offset, luks);
    if (done) done = file.sync();
    if (done) done = file.write(0, *encoded);
    return done ? file.sync() : done;
}

// The caller's file, for an Image that wants to own one.
class Borrowed final : public BlockFile {
public:
    explicit Borrowed(BlockFile& file) : file_(file) {}
    const std::string& name() const override { return file_.name(); }
    Result<std::uint64_t> size() const override { return file_.size(); }
    Status read(std::uint64_t offset, std::span<std::byte> into) override { return file_.read(offset, into); }
    Status write(std::uint64_t offset, std::span<const std::byte> from) override { return file_.write(offset, from); }
    Status sync() override { return file_.sync(); }
    Result<bool> allocate(std::uint64_t offset, std::uint64_t length) override {
        return file_.allocate(offset, length);
    }
    Status truncate(std::uint64_t size) override { return file_.truncate(size); }
    bool read_only() const override { return file_.read_only(); }
    int descriptor() const override { return file_.descriptor(); }
    std::uint32_t direct_alignment() const override { return file_.direct_alignment(); }
    bool fixed_size() const override { return file_.fixed_size(); }
    std::uint64_t occupied_bytes() const override { return file_.occupied_bytes(); }
    Status go_buffered() override { return file_.go_buffered(); }

private:
    BlockFile& file_;
};

Status write_zeros(Qcow2Image& image, Place place) {
    const std::vector<std::byte> zeros(std::min<std::uint64_t>(place.length, 1 << 20));
    while (place.length != 0) {
        const auto part = std::min<std::uint64_t>(zeros.size(), place.length);
        auto done = image.write_data(place, std::span(zeros).first(part));
        if (!done) return done;
        place.start.bytes += part;
        place.host.bytes += part;
        place.length -= part;
    }
    return ok();
}

Status preallocate(BlockFile& file, const CreatePlan& plan, Neighbours* neighbours) {
    OpenOptions options;
    if (!plan.key_file.empty()) options.options.emplace_back("key-file", plan.key_file);
    options.writable = true;
    options.neighbours = neighbours;
    auto opened = Qcow2Image::open(std::make_unique<Borrowed>(file), options);
    if (!opened) return opened.error();
    auto& image = static_cast<Qcow2Image&>(**opened);
    if (plan.preallocation == Preallocation::metadata) image.go_sparse();
    const auto size = image.info().virtual_size;
    for (std::uint64_t at = 0; at < size;) {
        const auto place = image.reserve({{at}, std::min(piece, size - at)});
        if (!place) return place.error();
        const auto bytes = std::min(place->length, size - at);
        // A data file was made here: it is a hole as yet.
        const bool zeros = place->reads_as_zero || place->file == 1;
        Status done;
        if (plan.preallocation == Preallocation::full || !zeros) done = write_zeros(image, *place);
        if (done) done = image.apply(Change{ChangeKind::data, {at}, bytes, place->file, place->host});
        if (done) done = image.commit(DataState::written);
        if (!done) return done;
        at += bytes;
    }
    return image.close();
}

Status make_data_file(const CreatePlan& plan, Neighbours* neighbours) {
    auto made = neighbours->create(plan.data_file);
    if (!made) return made.error();
    auto done = (*made)->truncate(plan.header.size);
    return done ? (*made)->sync() : done;
}

// Header and key slot of a LUKS image; empty for another.
Result<std::vector<std::byte>> make_luks(const CreatePlan& plan) {
    if (plan.key_file.empty()) return std::vector<std::byte>{};
    const auto secret = crypto::read_key_file(plan.key_file);
    if (!secret) return secret.error();
    if (plan.header.encryption != Encryption::luks) return std::vector<std::byte>{};
    crypto::LuksOptions options;
    if (plan.iteration_milliseconds != 0) options.iteration_milliseconds = plan.iteration_milliseconds;
    auto made = crypto::create_luks(options, *secret, CipherBy::host_offset);
    if (!made) return made.error();
    return std::move(made->bytes);
}

}  // namespace

Status create_image(BlockFile& file, const CreateOptions& options) {
    auto plan = plan_create(file, options);
    if (!plan) return plan.error();
    const auto size = file.size();
    if (!size) return size.error();
    if (*size != 0 && !file.fixed_size()) return wrong(file, Code::invalid, "the file is not empty");
    const auto luks = make_luks(*plan);
    if (!luks) return luks.error().in("create qcow2 image '" + file.name() + "'");
    Status done;
    if (!plan->data_file.empty()) done = make_data_file(*plan, options.neighbours);
    if (done) done = write_image(file, plan->header, *luks);
    if (done && plan->preallocation != Preallocation::off) done = preallocate(file, *plan, options.neighbours);
    return done;
}

}  // namespace dmu::qcow2
