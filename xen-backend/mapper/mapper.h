// SPDX-License-Identifier: GPL-2.0-or-later
// The mapper of one instance: which disks it has, in which stage of their lives each is,
// and the commands of the control socket. All on the event loop's thread; what blocks is
// done elsewhere and comes back by EventLoop::post: images on their disk's thread,
// libdevmapper on the DmThread.
//
//     opening -> creating -> active -> removing -> closing -> (gone)
//        |          |          ^                      ^
//        v          +-> undoing (an add that failed)  |
//      (gone)    adopting <-> orphaned ---------------+
//
// An add that fails in any stage leaves nothing. Every stage but active and orphaned ends
// by itself.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "xen-backend/control/control.h"
#include "xen-backend/devmapper/device_mapper.h"
#include "xen-backend/devmapper/dm_thread.h"
#include "xen-backend/mapper/backend_watches.h"
#include "xen-backend/mapper/control_server.h"
#include "xen-backend/mapper/disk.h"
#include "xen-backend/mapper/event_loop.h"

namespace dmu {

struct MapperServices {
    KernelAccess kernel;
    std::unique_ptr<DeviceMapper> devices;
    BackendWatches::Opener open_xenstore;
};

class Mapper {
public:
    using Json = control::Json;
    using Reply = ControlServer::Reply;

    // finished: nothing is left to do; called once.
    Mapper(EventLoop& loop, std::string instance, MapperServices services, std::function<void()> finished);
    // As a kill for what is still there.
    ~Mapper();
    Mapper(const Mapper&) = delete;
    Mapper& operator=(const Mapper&) = delete;

    // Takes over the disks that a predecessor of this instance left.
    void adopt();
    // A command of the control socket.
    void handle(const Json& request, Reply reply);
    // Commits all, removes what nobody has open, leaves the rest to a successor, finishes.
    void stop();
    // Finished because its program is to be started again, which takes the disks over.
    bool wants_successor() const { return wants_successor_; }
    // Has no disk and was not asked for one for a while: finishes when there is still none.
    void finish_when_idle(std::chrono::milliseconds grace);
    // Asked before an idle mapper finishes.
    std::function<bool()> may_finish = [] { return true; };

private:
    enum class Stage { opening, creating, active, removing, closing, undoing, adopting, orphaned, leaving };

    struct Attachment {
        std::uint64_t id = 0;
        Stage stage = Stage::opening;
        control::DiskState state;
        Config config;
        ImageSpec spec;
        DiskFacts facts;
        std::unique_ptr<Disk> disk;
        std::vector<std::string> former_users;
        std::vector<Reply> adders;
        std::vector<Reply> removers;
        Error failure;  // undoing: why
        std::chrono::steady_clock::time_point removing_since;
        EventLoop::TimerId timer = 0;
    };

    // commands (commands.cc)
    void add(const Json& request, const Reply& reply);
    Status check_add(const Json& request, Attachment& wanted) const;
    bool add_to_existing(const Attachment& wanted, const Reply& reply);
    void remove(const Json& request, const Reply& reply);
    void commit(const Reply& reply);
    void restart(const Reply& reply);
    Json list() const;
    Json describe(const Attachment& one) const;

    // lives (lives.cc)
    void begin(Attachment& one);
    void opened(std::uint64_t id, const Result<DiskFacts>& result);
    void files_came(std::uint64_t id, const std::vector<control::DiskState::File>& files);
    void create_device(Attachment& one);
    void created(std::uint64_t id, const Result<DmInfo>& result);
    void undo(Attachment& one, const Error& why);
    void added(Attachment& one);
    void adopted(Attachment& one, const Result<DiskFacts>& result);
    void adopt_one(const control::DiskState& state);
    void forget(Attachment& one);
    void remove_remains(const Attachment& one);
    void orphan(Attachment& one, const Error& why);

    // their ends (removal.cc)
    void drop_user(Attachment& one, const std::string& user);
    void begin_removal(Attachment& one);
    void fail_waiting_io(const Attachment& one);
    void try_removal(Attachment& one);
    void removal_tried(std::uint64_t id, const Status& result);
    void close_disk(Attachment& one);
    void closed(std::uint64_t id, const Status& result);
    void gone(std::uint64_t id);
    void stop_one(Attachment& one);
    void user_vanished(const std::string& user);

    Attachment* find(std::uint64_t id);
    Attachment* find_name(const std::string& name);
    Json added_reply(const Attachment& one) const;
    void watch_users(const Attachment& one);
    void save(const Attachment& one) const;
    static void answer(std::vector<Reply>& waiting, const Json& reply);

    EventLoop& loop_;
    const std::string instance_;
    KernelAccess kernel_;
    std::shared_ptr<DeviceMapper> devices_;  // only used on dm_thread_
    std::function<void()> finished_;
    BackendWatches watches_;
    std::map<std::uint64_t, std::unique_ptr<Attachment>> attachments_;
    std::uint64_t next_id_ = 1;
    bool stopping_ = false;
    bool done_ = false;
    bool wants_successor_ = false;
    EventLoop::TimerId idle_timer_ = 0;
    // What other threads post after this is gone is dropped.
    std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
    DmThread dm_thread_;  // last: what it still does must find the rest
};

// Moves the options of a specification that are the mapper's from there into config.
Status take_own_options(ImageSpec& spec, Config& config);

// "backend/vbd/5/51712": domain and device number; false for other users.
bool parse_backend_user(const std::string& user, unsigned& domain, unsigned& device);
// 51712: "xvda"; the number where it has no name.
std::string vdev_name(unsigned device);

}  // namespace dmu
