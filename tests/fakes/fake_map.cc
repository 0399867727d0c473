// SPDX-License-Identifier: GPL-2.0-or-later
// What a target of the model keeps: map, log, destinations, events, and their hand-over.
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "tests/fakes/fake_target.h"

namespace dmu::fake {

namespace {

bool is_device(const struct stat& status) {
    return S_ISBLK(status.st_mode);
}

int whole(int fd, std::uint64_t offset, std::span<std::byte> into) {
    while (!into.empty()) {
        const ssize_t got = pread(fd, into.data(), into.size(), static_cast<off_t>(offset));
        if (got <= 0) return got == 0 ? EIO : errno;
        into = into.subspan(static_cast<std::size_t>(got));
        offset += static_cast<std::uint64_t>(got);
    }
    return 0;
}

int whole(int fd, std::uint64_t offset, std::span<const std::byte> from) {
    while (!from.empty()) {
        const ssize_t put = pwrite(fd, from.data(), from.size(), static_cast<off_t>(offset));
        if (put < 0) return errno;
        from = from.subspan(static_cast<std::size_t>(put));
        offset += static_cast<std::uint64_t>(put);
    }
    return 0;
}

}  // namespace

Descriptor::~Descriptor() {
    if (fd_ >= 0) close(fd_);
}

Extent Extent::cut(std::uint64_t begin, std::uint64_t end) const {
    Extent part = *this;
    part.physical += begin - start;
    part.physical2 += begin - start;
    part.start = begin;
    part.length = end - begin;
    return part;
}

Target::Target(State& state, std::string key)
    : owner_(state), key_(std::move(key)), event_fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
}

Target::~Target() = default;

// ------------------------------------------------------------------ map

std::optional<Extent> Target::find(std::uint64_t at) const {
    auto next = map_.upper_bound(at);
    if (next == map_.begin()) return std::nullopt;
    const Extent& extent = std::prev(next)->second;
    if (extent.end() <= at) return std::nullopt;
    return extent;
}

std::uint64_t Target::gap_end(std::uint64_t at, std::uint64_t limit) const {
    const auto next = map_.upper_bound(at);
    return next == map_.end() ? limit : std::min(limit, next->first);
}

void Target::forget(std::uint64_t start, std::uint64_t end) {
    for (std::uint64_t at = start; at < end;) {
        const std::optional<Extent> extent = find(at);
        if (!extent) {
            at = gap_end(at, end);
            continue;
        }
        map_.erase(extent->start);
        if (extent->start < start) map_[extent->start] = extent->cut(extent->start, start);
        if (extent->end() > end) map_[end] = extent->cut(end, extent->end());
        at = extent->end();
    }
}

// Into a gap. Neighbours stay apart but for runs that one MAP put down.
void Target::put(const Extent& extent) {
    if (extent.start > 0) {
        const std::optional<Extent> before = find(extent.start - 1);
        if (before) {
            Extent joined = before->cut(before->start, extent.end());
            const Extent tail = joined.cut(extent.start, extent.end());
            const bool linear = extent.kind == DMU_KIND_LINEAR || extent.kind == DMU_KIND_COW;
            if (tail.kind == extent.kind && tail.flags == extent.flags && tail.destination == extent.destination &&
                (!linear || tail.physical == extent.physical) && tail.discard == extent.discard &&
                tail.zeroes == extent.zeroes && !(extent.flags & DMU_MAP_MIRROR)) {
                map_[joined.start] = joined;
                return;
            }
        }
    }
    map_[extent.start] = extent;
}

std::uint64_t Target::grain_end(std::uint64_t at) const {
    return std::min(grain_start(at) + table_.grain, table_.sectors);
}

bool Target::in_flight(std::uint64_t start, std::uint64_t end) const {
    return std::any_of(places_.begin(), places_.end(),
                       [&](const Place& place) { return place.extent.start < end && start < place.extent.end(); });
}

// ------------------------------------------------------------------ destinations

int Target::add_destination(dmu_destination& d) {
    constexpr std::uint32_t flags = DMU_DEST_READ_ONLY | DMU_DEST_BUFFERED | DMU_DEST_HOLD;
    if (d.number >= DMU_DESTINATIONS || (d.flags & ~flags)) return EINVAL;
    if (destinations_.contains(d.number)) return EEXIST;
    const int mode = fcntl(d.fd, F_GETFL);
    struct stat status {};
    if (mode < 0 || (mode & O_PATH) || fstat(d.fd, &status) < 0) return EBADF;
    if (!S_ISREG(status.st_mode) && !is_device(status)) return EINVAL;
    const bool hold = d.flags & DMU_DEST_HOLD, read_only = d.flags & DMU_DEST_READ_ONLY;
    if (!hold && ((mode & O_ACCMODE) == O_WRONLY || (!read_only && (mode & O_ACCMODE) != O_RDWR))) return EBADF;

    Destination made;
    made.kept = Descriptor(fcntl(d.fd, F_DUPFD_CLOEXEC, 0));
    const std::string path = "/proc/self/fd/" + std::to_string(d.fd);
    made.io = Descriptor(open(path.c_str(), (read_only || hold ? O_RDONLY : O_RDWR) | O_CLOEXEC));
    if (made.kept.get() < 0 || made.io.get() < 0) return errno;
    made.description = d;
    made.description.fd = -1;
    made.description.alignment = 512;
    if (is_device(status)) made.description.flags |= DMU_DEST_BLOCK;
    destinations_[d.number] = std::move(made);
    return get_destination(d);
}

int Target::get_destination(dmu_destination& d) const {
    const auto found = destinations_.find(d.number);
    if (found == destinations_.end()) return ENOENT;
    const off_t end = lseek(found->second.io.get(), 0, SEEK_END);
    if (end < 0) return errno;
    d = found->second.description;
    d.sectors = static_cast<std::uint64_t>(end) / DMU_SECTOR_SIZE;
    return 0;
}

int Target::destination_descriptor(unsigned number, int& fd) const {
    const auto found = destinations_.find(number);
    if (found == destinations_.end()) return ENOENT;
    fd = fcntl(found->second.kept.get(), F_DUPFD_CLOEXEC, 0);
    return fd < 0 ? errno : 0;
}

int Target::remove_destination(unsigned number) {
    if (!destinations_.contains(number)) return ENOENT;
    const auto uses = [&](const Extent& extent) {
        return extent.destination == number || ((extent.flags & DMU_MAP_MIRROR) && extent.destination2 == number);
    };
    const bool used = std::any_of(map_.begin(), map_.end(), [&](const auto& entry) { return uses(entry.second); }) ||
                      std::any_of(places_.begin(), places_.end(), [&](const Place& p) { return uses(p.extent); });
    if (used) return EBUSY;
    destinations_.erase(number);
    return 0;
}

int Target::file_read(std::uint32_t number, std::uint64_t physical, std::span<std::byte> into) const {
    const auto found = destinations_.find(number);
    return found == destinations_.end() ? EIO : whole(found->second.io.get(), physical * DMU_SECTOR_SIZE, into);
}

int Target::file_write(std::uint32_t number, std::uint64_t physical, std::span<const std::byte> from) const {
    const auto found = destinations_.find(number);
    return found == destinations_.end() ? EIO : whole(found->second.io.get(), physical * DMU_SECTOR_SIZE, from);
}

void Target::file_sync() const {
    for (const auto& [number, destination] : destinations_)
        if (!(destination.description.flags & (DMU_DEST_READ_ONLY | DMU_DEST_HOLD))) fdatasync(destination.io.get());
}

// ------------------------------------------------------------------ events

void Target::push(dmu_event event) {
    events_.push_back(event);
    const std::uint64_t one = 1;
    [[maybe_unused]] const ssize_t put = ::write(event_fd_.get(), &one, sizeof(one));
}

std::size_t Target::pop(std::span<dmu_event> into) {
    std::size_t count = 0;
    // A miss or flush that has ended meanwhile is not told of.
    const auto stale = [this](const dmu_event& event) {
        if (event.type == DMU_EV_MISS)
            return std::none_of(misses_.begin(), misses_.end(), [&](const Miss& m) { return m.id == event.id; });
        if (event.flags & DMU_FLUSH_ASKED)
            return std::none_of(requests_.begin(), requests_.end(),
                                [&](const auto& request) { return request->flush_id == event.id; });
        return event.type == DMU_EV_FLUSH && event.sequence <= committed_;
    };
    while (!events_.empty() && count < into.size()) {
        const dmu_event event = events_.front();
        events_.pop_front();
        if (stale(event)) continue;
        if (event.type == DMU_EV_CHANGED) delivered_ = std::max<std::uint64_t>(delivered_, event.sequence);
        for (Miss& miss : misses_)
            if (event.type == DMU_EV_MISS && miss.id == event.id) miss.told = true;
        into[count++] = event;
    }
    if (events_.empty()) {
        std::uint64_t counter = 0;
        [[maybe_unused]] const ssize_t got = ::read(event_fd_.get(), &counter, sizeof(counter));
    }
    return count;
}

dmu_event Target::miss_event(const Miss& miss) const {
    dmu_event event{};
    event.type = DMU_EV_MISS;
    const bool returned = miss.flags & DMU_MISS_RETURNED;
    const bool mapped = miss.op == DMU_OP_WRITE && !returned && find(miss.start);
    event.flags = (miss.sequential ? DMU_MISS_SEQUENTIAL : 0) | (miss.told ? DMU_MISS_AGAIN : 0) |
                  (mapped ? DMU_MISS_MAPPED : 0) | miss.flags;
    event.error = miss.error;
    event.id = miss.id;
    event.start = miss.start;
    event.length = miss.length;
    event.op = miss.op;
    return event;
}

void Target::log_change(std::uint32_t kind, const Extent& extent) {
    dmu_event event{};
    event.type = DMU_EV_CHANGED;
    event.sequence = ++sequence_;
    event.start = extent.start;
    event.length = extent.length;
    event.kind = kind;
    event.destination = kind == DMU_KIND_ZERO ? DMU_NO_DESTINATION : extent.destination;
    event.physical = kind == DMU_KIND_ZERO ? 0 : extent.physical;
    log_.push_back(event);
    if (attached_) push(event);
}

// The hand-over, in the order that the wire's header gives.
void Target::attach() {
    attached_ = true;
    delivered_ = committed_;
    for (const dmu_event& change : log_) push(change);
    for (const Place& place : places_) {
        dmu_event event{};
        event.type = DMU_EV_PLACED;
        event.start = place.extent.start;
        event.length = place.extent.length;
        event.destination = place.extent.destination;
        event.physical = place.extent.physical;
        event.kind = DMU_KIND_LINEAR;
        push(event);
    }
    replay_leases();
    dmu_event attached{};
    attached.type = DMU_EV_ATTACHED;
    attached.sequence = sequence_;
    attached.length = table_.sectors;
    push(attached);
    for (const Miss& miss : misses_) push(miss_event(miss));
    for (const RequestPtr& request : requests_)
        if (!request->finished && request->flush_id != 0)
            push_flush(request->flush_id, request->flush_sequence, request->asked ? DMU_FLUSH_ASKED : 0);
    if (press_id_ != 0) push_flush(press_id_, press_sequence_);
}

void Target::detach() {
    attached_ = false;
    events_.clear();
    invalidations_.clear();
    pop({});
    // Misses that came while nobody listened are told of by attach().
    if (!exists()) reset();
}

void Target::reset() {
    table_ = FakeTable{};
    events_.clear();
    map_.clear();
    destinations_.clear();
    log_.clear();
    misses_.clear();
    pools_.clear();
    places_.clear();
    sequence_ = committed_ = delivered_ = invalidated_ = 0;
    press_id_ = 0;
    fail_ = false;
    failing_.clear();
    wait_seconds_ = DMU_WAIT_FOREVER;
    counters_ = dmu_state{};
}

dmu_state Target::state() const {
    const std::lock_guard guard(owner_.lock);
    dmu_state state = counters_;
    state.sectors = table_.sectors;
    state.sequence = sequence_;
    state.committed = committed_;
    state.extents = map_.size();
    state.map_bytes = map_.size() * sizeof(Extent);
    state.map_limit = std::uint64_t{table_.map_memory.value_or(0)} << 10;
    state.pending = static_cast<std::uint64_t>(std::count_if(
        requests_.begin(), requests_.end(), [](const RequestPtr& r) { return r->kind == Request::Kind::io; }));
    state.log_entries = static_cast<std::uint32_t>(log_.size());
    state.log_limit = table_.log;
    state.wait_seconds = wait_seconds_;
    state.destinations = static_cast<std::uint32_t>(destinations_.size());
    return state;
}

std::vector<dmu_command> Target::map() const {
    const std::lock_guard guard(owner_.lock);
    std::vector<dmu_command> all;
    for (const auto& [start, extent] : map_) {
        dmu_command command{};
        command.type = DMU_CMD_MAP;
        command.flags = extent.flags;
        command.start = start;
        command.length = extent.length;
        command.kind = extent.kind;
        command.destination = extent.destination;
        command.physical = extent.physical;
        command.destination2 = extent.destination2;
        command.physical2 = extent.physical2;
        command.discard = extent.discard;
        command.zeroes = extent.zeroes;
        all.push_back(command);
    }
    return all;
}

}  // namespace dmu::fake
