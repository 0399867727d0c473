// SPDX-License-Identifier: GPL-2.0-or-later
// What every disk image format implements. An Image knows its own metadata and
// nothing of kernels, Xen, threads or its backing file: a Chain (chain.h) joins
// the layers. One thread at a time may use an Image.
//
// The life of a first write: reserve() gives space that nothing on disk points
// at; the data is written there by somebody else; apply() records the mapping in
// memory; commit() makes it durable. A host crash at any point leaves leaked
// space at worst.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "block_file.h"
#include "result.h"
#include "units.h"

namespace dmu {

enum class ExtentKind {
    unallocated,  // ask the backing file; zeros where there is none
    zero,         // reads as zeros whatever the backing file holds
    data,         // lies at host in file
    compressed,   // exists, but can't be mapped: read() it
};

// One answer of look-up. Neighbouring answers of the same kind are merged.
struct Extent {
    GuestOffset start;
    std::uint64_t length = 0;  // bytes, > 0
    ExtentKind kind = ExtentKind::unallocated;
    unsigned file = 0;      // data: index into files()
    HostOffset host;        // data: of the first byte
    bool writable = false;  // data: may be overwritten in place
};

struct Place {
    GuestOffset start;
    std::uint64_t length = 0;  // bytes, whole grains
    unsigned file = 0;
    HostOffset host;
    bool reads_as_zero = false;
};

enum class ChangeKind { data, zero, lost };

// What the kernel (or the stand-in) did, in order.
struct Change {
    ChangeKind kind = ChangeKind::data;
    GuestOffset start;
    std::uint64_t length = 0;
    unsigned file = 0;  // data, lost
    HostOffset host;    // data, lost
};

struct BackingReference {
    std::string path;    // as written in the image
    std::string format;  // empty: the image does not say (the configuration must)
};

struct ImageInfo {
    std::string format;
    std::uint64_t virtual_size = 0;  // bytes
    std::uint32_t grain = 512;       // bytes, a power of two: the unit of reserve()
    bool can_allocate = false;       // reserve() may work (false: raw)
    bool discards_to_zero = false;   // apply(ChangeKind::zero) works
    std::optional<BackingReference> backing;
    bool encrypted = false;
};

// Where the metadata was found wrong, or leaked.
struct CheckReport {
    std::uint64_t corruptions = 0;
    std::uint64_t leaks = 0;            // clusters
    std::uint64_t allocated = 0;        // clusters of guest data
    std::uint64_t total = 0;            // clusters of the virtual disk
    std::vector<std::string> messages;  // the first 100
};

enum class DataState {
    written,  // completed, maybe in a volatile cache: commit() syncs the data first
    durable,  // synced already: commit() need not
};

class Image {
public:
    virtual ~Image() = default;

    virtual const ImageInfo& info() const = 0;
    // The files data can lie in; files()[0] is the image itself. Owned by the image.
    virtual const std::vector<BlockFile*>& files() const = 0;

    // What lies at range.start and on; at least all of range, and past it as far as
    // is known without further I/O (a whole L2 table). Covers from range.start without
    // holes, in order, never past the virtual size. Every extent is checked against
    // header, metadata and the file's end: Code::corrupt otherwise.
    virtual Result<std::vector<Extent>> look_up(GuestRange range) = 0;

    // Content of a compressed extent; never called for others. Optional.
    virtual Status read_compressed(GuestOffset start, std::span<std::byte> into);

    // Space for the whole grains of range, contiguous if it can be had, else for less
    // from its start (at least a grain). Never given out twice, also not after a
    // restart while a successor applies the changes. Code::no_space: nothing changed.
    virtual Result<Place> reserve(GuestRange range) = 0;

    // Records a change in memory. Idempotent: a successor applies again what its
    // predecessor may have committed.
    virtual Status apply(const Change& change) = 0;

    // Writes what apply() recorded, data before metadata, each dependency synced. On
    // an error what was applied stays recorded, and a later commit tries again.
    virtual Status commit(DataState data) = 0;
    virtual bool dirty() const = 0;

    // Commits, and gives back what was reserved and not used.
    virtual Status close() = 0;

    // Bytes allocated for guest data, for listings; cheap.
    virtual std::uint64_t allocated_bytes() const = 0;
};

struct OpenOptions {
    bool writable = false;
    // Kept for what follows the format in the specification ("qcow2;key-file=...:...").
    std::vector<std::pair<std::string, std::string>> options;
};

struct CreateOptions {
    std::uint64_t virtual_size = 0;  // bytes
    std::uint32_t cluster_size = 0;  // 0: the format's default
    std::optional<BackingReference> backing;
};

// A format, as the registry lists it.
struct Format {
    const char* name;
    Result<std::unique_ptr<Image>> (*open)(std::unique_ptr<BlockFile> file, const OpenOptions& options);
    // Writes a fresh image into an empty file.
    Status (*create)(BlockFile& file, const CreateOptions& options);
    // Reads the image independently of open() and its allocator.
    Result<CheckReport> (*check)(BlockFile& file);
};

// nullptr: no such format. Never guesses from content.
const Format* find_format(const std::string& name);
// "qcow, raw", for messages.
std::string format_names();

}  // namespace dmu
