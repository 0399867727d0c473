// SPDX-License-Identifier: GPL-2.0-or-later
#include "xen-backend/mapper/service.h"

#include <poll.h>

#include <algorithm>
#include <random>

#include "xen-backend/mapper/log.h"
#include "xen-backend/mapper/process.h"

namespace dmu {
namespace {

constexpr std::size_t events_at_once = 256;
// Batches read before commits and requests get their turn.
constexpr unsigned batches_at_once = 16;
constexpr std::chrono::seconds answer_retry_interval{1};
constexpr std::chrono::seconds hand_over_limit{30};
constexpr unsigned close_attempts = 5;

// Of the INVALIDATE that drains before freed space is used again: neither a predecessor's,
// which may still be answered, nor one of Scratch's, which count up from such a number.
std::uint64_t fresh_recycle_id() {
    return static_cast<std::uint64_t>(std::random_device{}()) << 32 | 0xffffffffu;
}

bool has_cipher(const Chain& chain) {
    for (unsigned layer = 0; layer < chain.depth(); ++layer) {
        if (chain.layer(layer).cipher() != nullptr) return true;
    }
    return false;
}

}  // namespace

Disk::Service::Service(Disk& disk, OpenDisk open)
    : disk_(disk),
      open_(std::move(open)),
      changes_(open_.chain->top(), open_.facts, disk.alarms_),
      leases_(open_.chain->top(), open_.facts, leases_wanted(), disk.alarms_, out_),
      scratch_(*open_.chain, open_.facts, *open_.channel, out_,
               static_cast<std::uint64_t>(disk.setup_.config.scratch_mib) << 20),
      grains_(*open_.chain, open_.facts, open_.crypt, out_),
      answers_(*open_.chain, open_.facts, disk.setup_.config.on_full, leases_, scratch_, grains_, disk.alarms_, out_,
               [this](unsigned file) { return know_file(file); }),
      commits_(open_.chain->top(), changes_, std::chrono::seconds(disk.setup_.config.commit_seconds), disk.alarms_,
               out_),
      events_(events_at_once),
      recycle_id_(fresh_recycle_id()) {
    if (has_cipher(*open_.chain)) forbid_core_dumps();
    leases_.start();
    send();
    publish();
}

Status Disk::Service::know_file(unsigned file) {
    const auto before = open_.facts.files.size();
    if (Status known = open_.know_file(file); !known) return known;
    if (open_.facts.files.size() != before && disk_.callbacks_.files_came)
        disk_.callbacks_.files_came(open_.facts.files);
    return ok();
}

bool Disk::Service::leases_wanted() const {
    if (!(open_.features & DMU_FEATURE_LEASES)) return false;
    switch (disk_.setup_.config.lease_ahead) {
        case LeaseAhead::yes:
            return true;
        case LeaseAhead::no:
            return false;
        case LeaseAhead::automatic:
            return open_.chain->top().info().returns_leases;
    }
    return false;
}

Status Disk::Service::take_over() {
    auto state = open_.channel->state();
    if (!state) return state.error();
    if (Status taken = scratch_.take_over(); !taken) return taken;
    changes_.start_at(state->committed);
    commits_.start_at(state->committed);
    auto deadline = Clock::now() + hand_over_limit;
    while (!attached_) {
        while (read_events()) {
        }
        if (channel_broken_) return Error{Code::io, disk_.setup_.name + ": the channel can't be read"};
        if (attached_) break;
        if (Clock::now() > deadline) {
            return Error{Code::io, disk_.setup_.name + ": the kernel did not finish its hand-over"};
        }
        pollfd entry{open_.channel->poll_descriptor(), POLLIN, 0};
        (void)poll(&entry, 1, 100);
    }
    log_notice(disk_.setup_.name + ": taken over, with " + std::to_string(figures_.handed_over) +
               " changes that were not committed");
    publish();
    return ok();
}

Disk::Ending Disk::Service::serve() {
    for (;;) {
        wait();
        for (auto& stack : open_.crypt) {
            while (stack->serve()) {
            }
        }
        for (unsigned batch = 0; batch < batches_at_once && read_events(); ++batch) {
        }
        Ending ending = handle_requests();
        if (ending != Ending::none) return ending;
        do_timed(Clock::now());
        do_work(Clock::now());
        publish();
    }
}

void Disk::Service::wait() {
    std::vector<pollfd> entries = {{disk_.wake_, POLLIN, 0}};
    if (!channel_broken_) entries.push_back({open_.channel->poll_descriptor(), POLLIN, 0});
    for (const auto& stack : open_.crypt) {
        if (!stack->is_broken()) entries.push_back({stack->poll_descriptor(), POLLIN, 0});
    }
    if (poll(entries.data(), entries.size(), timeout(Clock::now())) < 0 && errno != EINTR) {
        log_error(disk_.setup_.name + ": " + system_error("waiting for events").message);
    }
}

bool Disk::Service::read_events() {
    auto count = open_.channel->read(events_);
    if (!count) {
        disk_.alarms_.raise("channel", count.error().message);
        channel_broken_ = true;
        return false;
    }
    read_at_ = Clock::now();
    for (std::size_t i = 0; i < *count; ++i) handle(events_[i]);
    answers_.end_batch();
    finish_grains();
    send();
    return *count == events_.size();
}

void Disk::Service::handle(const dmu_event& event) {
    switch (event.type) {
        case DMU_EV_CHANGED:
            changes_.take(event);
            commits_.touch(read_at_);
            if (!attached_ && disk_.setup_.successor) ++figures_.handed_over;
            break;
        case DMU_EV_FLUSH:
            commits_.flush(event.id, event.sequence);
            break;
        case DMU_EV_MISS:
            handle_miss(event);
            break;
        case DMU_EV_INVALIDATED:
            handle_drained(event.id);
            break;
        case DMU_EV_ATTACHED:
            attached_ = true;
            leases_.handed_over();
            break;
        case DMU_EV_LEASED:
            leases_.found();
            break;
        case DMU_EV_LEASE_LOW:
            leases_.low(read_at_);
            break;
        case DMU_EV_REVOKED:
            leases_.returned(event);
            break;
        default:
            // PLACED: the place lies before the end of the file, where nothing is given out
            // again; its CHANGED follows.
            break;
    }
}

void Disk::Service::handle_miss(const dmu_event& miss) {
    if (changes_.is_behind()) {
        // The image does not say what the kernel did: an answer could give old data.
        out_.fail(miss.id, EIO);
        return;
    }
    if (open_.facts.encryption == Encryption::aes && commits_.is_failing()) {
        // The image has places that are not durable, and no flush would ask for them.
        out_.fail(miss.id, EIO);
        return;
    }
    answers_.answer(miss, changes_.applied());
}

void Disk::Service::finish_grains() {
    if (!grains_.has_written()) return;
    grains_.finish(commits_.commit_at(read_at_), changes_.applied());
    begin_recycling();
}

// What the disk's map refers to comes first.
void Disk::Service::send() {
    for (auto& stack : open_.crypt) stack->send();
    out_.send(*open_.channel, disk_.setup_.name);
}

void Disk::Service::handle_drained(std::uint64_t id) {
    if (id == recycle_id_ && recycling_since_) {
        // A commit meanwhile freed what this drain did not wait for.
        const bool is_whole = *recycling_since_ == commits_.commits();
        recycling_since_.reset();
        if (is_whole) open_.chain->top().recycle();
        begin_recycling();
    } else if (scratch_.is_freed(id) && !changes_.is_behind()) {
        answers_.go_on(changes_.applied());
    }
}

void Disk::Service::begin_recycling() {
    if (recycling_since_ || !open_.chain->top().wants_recycling()) return;
    recycling_since_ = commits_.commits();
    dmu_command drain{};
    drain.type = DMU_CMD_INVALIDATE;
    drain.id = recycle_id_;
    drain.destination = DMU_NO_DESTINATION;
    out_.add(drain);
}

Disk::Ending Disk::Service::handle_requests() {
    Ending ending = Ending::none;
    for (Request& request : disk_.take_requests()) {
        switch (request.kind) {
            case Request::Kind::end:
                ending = request.ending;
                break;
            case Request::Kind::take_down:
                begin_take_down();
                break;
            case Request::Kind::commit:
                Status done = commits_.commit();
                send();
                request.done(done);
                break;
        }
    }
    return ending;
}

void Disk::Service::begin_take_down() {
    going_ = true;
    answers_.stop_waiting();
    send();
}

void Disk::Service::do_timed(Clock::time_point now) {
    bool behind = changes_.is_behind();
    if ((behind || answers_.has_waiting()) && !retry_at_) retry_at_ = now + answer_retry_interval;
    if (retry_at_ && now >= *retry_at_) {
        changes_.retry();
        if (!changes_.is_behind()) answers_.retry(changes_.applied());
        finish_grains();
        retry_at_.reset();
        if (changes_.is_behind() || answers_.has_waiting()) retry_at_ = now + answer_retry_interval;
    }
    if (commits_.run(now)) begin_recycling();
    send();
    if (going_ && commits_.is_failing()) {
        // A flush that can't be answered must not keep the device from going.
        if (Status set = open_.channel->set_fail(true); !set) log_error(set.error().message);
    }
}

// Half of the time at most: the guest comes first.
void Disk::Service::do_work(Clock::time_point now) {
    Image& image = open_.chain->top();
    if (!image.has_work() || now < work_at_ || going_) return;
    Status done = image.work();
    const auto after = Clock::now();
    work_at_ = after + (done ? after - now : Clock::duration(answer_retry_interval));
    if (done) {
        disk_.alarms_.clear("work");
        if (!image.has_work()) log_notice(disk_.setup_.name + ": what its last writer left undone is done");
    } else {
        disk_.alarms_.raise("work", done.error().message);
    }
}

int Disk::Service::timeout(Clock::time_point now) const {
    auto next = commits_.next();
    if (retry_at_ && (!next || *retry_at_ < *next)) next = retry_at_;
    if (open_.chain->top().has_work() && !going_ && (!next || work_at_ < *next)) next = work_at_;
    if (!next) return -1;
    if (*next <= now) return 0;
    auto wait = std::chrono::duration_cast<std::chrono::milliseconds>(*next - now).count() + 1;
    return static_cast<int>(std::min<long>(wait, 60'000));
}

void Disk::Service::publish() {
    figures_.allocated = open_.chain->top().allocated_bytes();
    figures_.waiting = answers_.waiting();
    figures_.commits = commits_.commits();
    disk_.publish(figures_);
}

Status Disk::Service::close() {
    answers_.stop_waiting();
    leases_.revoke();
    send();
    while (!channel_broken_ && read_events()) {
    }
    Status done = ok();
    for (unsigned attempt = 0; attempt < close_attempts; ++attempt) {
        if (attempt != 0) {
            (void)poll(nullptr, 0, 200);
            changes_.retry();
        }
        done = commits_.commit();
        if (done && !changes_.is_behind()) break;
    }
    if (done && changes_.is_behind()) done = Error{Code::io, "changes could not be recorded in the image"};
    if (done) {
        send();
        done = open_.chain->top().close();
    }
    if (!done) log_error(disk_.setup_.name + ": closing " + disk_.setup_.spec.path + ": " + done.error().message);
    if (Status released = open_.release(disk_.kernel_); !released) {
        log_error(released.error().message);
        if (done) done = released;
    }
    return done;
}

Status Disk::Service::leave() {
    while (!channel_broken_ && read_events()) {
    }
    Status done = commits_.commit();
    send();
    if (!done) log_error(disk_.setup_.name + ": committing before the end: " + done.error().message);
    return done;
}

void Disk::Service::drop() {
    open_.drop();
}

}  // namespace dmu
