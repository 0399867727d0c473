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
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "block_file.h"
#include "cipher.h"
#include "neighbours.h"
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
    unsigned file = 0;  // data: index into files()
    HostOffset host;    // data: of the first byte
    // data: may be overwritten in place. Where it may not (shared by a snapshot, the image
    // write-protected until begin_writing()), a write is a copy into space of reserve().
    bool writable = false;
    // unallocated, zero, compressed, data that is not writable: any space that reserve()
    // gave may take a first write. False: only reserve() of this very range knows the place.
    bool leasable = true;
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
    // What the backing image's ImageInfo::identity must be (VMDK's CID); empty: anything.
    std::string identity{};
};

inline constexpr std::uint64_t default_cache_bytes = 8 << 20;

struct ImageInfo {
    std::string format;
    std::uint64_t virtual_size = 0;  // bytes
    std::uint32_t grain = 512;       // bytes, a power of two: the unit of reserve()
    bool can_allocate = false;       // reserve() may work (false: raw)
    bool only_compressed = false;    // nothing but write_compressed() writes it
    bool discards_to_zero = false;   // apply(ChangeKind::zero) works
    bool returns_leases = false;     // what give_back() is given is free for good after close(), wherever it lies
    std::optional<BackingReference> backing;
    bool encrypted = false;          // see Image::cipher()
    std::string identity;            // that overlays know it by; empty: the format has none
    std::uint32_t cluster_size = 0;  // bytes, for listings; 0: the format has none
    // What else the format has to say, in the order to print it. Values: bool, number, text.
    struct Detail {
        std::string key;  // as qemu-img's JSON calls it where that has a name; a path: "extents/0/format"
        std::variant<bool, std::uint64_t, std::string> value;
    };
    std::vector<Detail> details;
};

// Where the metadata was found wrong, or leaked.
struct CheckReport {
    std::uint64_t corruptions = 0;
    std::uint64_t leaks = 0;      // clusters
    std::uint64_t allocated = 0;  // clusters of guest data
    std::uint64_t total = 0;      // clusters of the virtual disk
    std::uint64_t corruptions_fixed = 0, leaks_fixed = 0;
    std::vector<std::string> messages;  // the first 100
};

enum class Repair { none, leaks, all };

struct CheckOptions {
    Repair repair = Repair::none;  // else the file is open for writing
    Neighbours* neighbours = nullptr;
};

struct Snapshot {
    std::string id;                     // unique
    std::string name;                   // need not be
    std::uint64_t created_seconds = 0;  // since 1970
    std::uint32_t created_nanoseconds = 0;
    std::uint64_t guest_nanoseconds = 0;  // the guest's clock
    std::uint64_t vm_state_bytes = 0;
    std::uint64_t virtual_size = 0;  // bytes, of the disk at that time
};

// Internal snapshots. All of it commits first, is durable when it returns, and leaves
// the image as it was on an error. What look_up() said before is void afterwards.
class Snapshots {
public:
    virtual ~Snapshots() = default;
    virtual const std::vector<Snapshot>& list() const = 0;
    virtual Status create(const std::string& name) = 0;
    // By id, else by name. Code::not_found.
    virtual Status apply(const std::string& which) = 0;
    virtual Status remove(const std::string& which) = 0;
};

enum class DataState {
    written,  // completed, maybe in a volatile cache: commit() syncs the data first
    durable,  // synced already: commit() need not
};

// What a look-up costs is what it answers.
enum class LookAhead {
    table,  // as far as is known without further I/O: a whole L2 table
    none,   // what comes anyway
};

class Image {
public:
    virtual ~Image() = default;

    virtual const ImageInfo& info() const = 0;
    // The files data can lie in; files()[0] is the image itself. Owned by the image. A null
    // pointer keeps the place of a file that reserve() may yet make.
    virtual const std::vector<BlockFile*>& files() const = 0;

    // What lies at range.start and on; at least all of range, and past it as ahead says.
    // Covers from range.start without holes, in order, never past the virtual size. Every
    // extent is checked against header, metadata and the file's end: Code::corrupt otherwise.
    virtual Result<std::vector<Extent>> look_up(GuestRange range, LookAhead ahead) = 0;
    Result<std::vector<Extent>> look_up(GuestRange range) { return look_up(range, LookAhead::table); }

    // Content of a compressed extent, or of a part of it; one extent may be of several
    // grains. Never called for others. Optional.
    virtual Status read_compressed(GuestOffset start, std::span<std::byte> into);

    // True: the format must record that the image is written to before the first write
    // (VMDK's CID, qcow2's bitmaps and autoclear bits). look_up() then calls nothing
    // writable; reserve() and apply() refuse with Code::denied until begin_writing().
    virtual bool write_protected() const { return false; }
    // Makes the mark durable. Idempotent. What look_up() said before is void afterwards.
    virtual Status begin_writing() { return ok(); }

    // Space for the whole grains of range, contiguous if it can be had, else for less
    // from its start (at least a grain). Never given out twice, also not after a
    // restart while a successor applies the changes. Code::no_space: nothing changed.
    virtual Result<Place> reserve(GuestRange range) = 0;

    // A lease: space for at most so many bytes (whole grains, contiguous; at least one
    // grain), which any first write where look_up() says leasable may take; Place::start
    // means nothing. As safe as what reserve() gives. The metadata that its use may need has
    // its space too: a commit() of it never fails for want of any. ChangeKind::zero leaves
    // a range leasable. Code::unsupported: the format has none; Code::no_space.
    virtual Result<Place> reserve_any(std::uint64_t bytes);

    // Space of reserve_any(), this image's or a predecessor's, that nobody has written to
    // or will: it may be given out again, and goes at close() where the format can.
    virtual Status give_back(const Place& unused);

    // Records a change in memory. Idempotent: a successor applies again what its
    // predecessor may have committed.
    virtual Status apply(const Change& change) = 0;

    // Writes what apply() recorded, data before metadata, each dependency synced. On
    // an error what was applied stays recorded, and a later commit tries again.
    virtual Status commit(DataState data) = 0;
    virtual bool dirty() const = 0;

    // Space that applied changes freed (a discard, a copy-on-write) is given out again only
    // when they are durable and this was called after that: the caller says that no read or
    // write of it is under way any more.
    virtual void recycle() {}
    // Durable changes have freed space that recycle() would give back.
    virtual bool wants_recycling() const { return false; }

    // What opening for writing put off, which the image can be used without (qcow2: refcounts
    // that its last writer left wrong): some of it, a few MiB of I/O, whenever there is nothing
    // more urgent to do. On an error it can be tried again.
    virtual bool has_work() const { return false; }
    virtual Status work() { return ok(); }
    // Called before anything else where a predecessor may have had the image open since the host
    // started: changes may come, and space may be used, that only the predecessor knew of.
    virtual void take_over() {}

    // Commits, and makes the disk larger, or smaller where the format can: what lay past
    // the new end is gone. bytes: rounded up to sectors. Durable when it returns.
    virtual Status resize(std::uint64_t bytes);

    // A whole grain at start (the last one may be short), compressed, as it is converted
    // or streamed; for offline use only. Code::unsupported; Code::invalid where start was
    // written before and the format can't write it again.
    virtual Status write_compressed(GuestOffset start, std::span<const std::byte> from);

    // Rewrites the header's backing reference, nothing else; none: no backing file any more.
    virtual Status set_backing(const std::optional<BackingReference>& backing);

    // nullptr: the format has none. Owned by the image.
    virtual Snapshots* snapshots() { return nullptr; }

    // What guest data in data extents is encrypted with; nullptr: plain. Owned by the image.
    // Compressed extents are never encrypted; metadata is not encrypted either.
    virtual const Cipher* cipher() const { return nullptr; }

    // Commits, and gives back what was reserved and not used. What work() has not done remains
    // for the next writer.
    virtual Status close() = 0;

    // Bytes allocated for guest data, for listings; cheap.
    virtual std::uint64_t allocated_bytes() const = 0;
};

struct OpenOptions {
    bool writable = false;
    // Kept for what follows the format in the specification ("qcow2;key-file=...:...").
    std::vector<std::pair<std::string, std::string>> options;
    // The files that names inside the image reach; outlives the image. nullptr: none.
    Neighbours* neighbours = nullptr;
    // The image's header only: info() and snapshots()->list() work, nothing else is opened
    // or read ("printing information about an image opens nothing but that file").
    bool info_only = false;
    // Of tables that can be read again, kept in memory: about so many bytes. What is not
    // written yet, and L1 and refcount tables, come on top.
    std::uint64_t cache_bytes = default_cache_bytes;
};

struct CreateOptions {
    std::uint64_t virtual_size = 0;  // bytes
    std::uint32_t cluster_size = 0;  // 0: the format's default
    std::optional<BackingReference> backing;
    // The format's own: "subformat=twoGbMaxExtentSparse", "preallocation=metadata",
    // "key-file=...", named as in its page of docs/. Unknown ones: Code::invalid.
    std::vector<std::pair<std::string, std::string>> options{};
    Neighbours* neighbours = nullptr;
};

// A format, as the registry lists it.
struct Format {
    const char* name;
    Result<std::unique_ptr<Image>> (*open)(std::unique_ptr<BlockFile> file, const OpenOptions& options);
    // Writes a fresh image into an empty file.
    Status (*create)(BlockFile& file, const CreateOptions& options);
    // Reads the image independently of open() and its allocator.
    Result<CheckReport> (*check)(BlockFile& file, const CheckOptions& options);
    // Whether the first bytes (at least 4096, or all of a smaller file) look like it; only
    // for telling people what a file seems to be. nullptr: can't be told (raw).
    bool (*recognises)(std::span<const std::byte> head) = nullptr;
};

// nullptr: no such format. Never guesses from content.
const Format* find_format(const std::string& name);
std::span<const Format* const> all_formats();
// "qcow, raw", for messages.
std::string format_names();

}  // namespace dmu
