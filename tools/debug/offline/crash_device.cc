// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/debug/offline/crash_device.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <thread>

#include "xen-backend/libdmu/dmu.h"

namespace dmu::debug {

namespace {

constexpr std::uint32_t base_number = 0, data_number = 1, scratch_number = 2;
constexpr std::uint64_t grain = 8;
// What one answer may cover.
constexpr std::uint64_t answer_sectors = 1 << 21;

Error failed(const std::string& what, int error) {
    return system_error(what, -error);
}

class Descriptor {
public:
    explicit Descriptor(int number) : number_(number) {}
    ~Descriptor() {
        if (number_ >= 0) ::close(number_);
    }
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    int get() const { return number_; }

private:
    int number_;
};

class Served final : public CrashDevice {
public:
    Served(DeviceMapper& devices, std::string name, const LogReader& log, Contents contents)
        : devices_(devices), name_(std::move(name)), log_(log), contents_(std::move(contents)) {}

    ~Served() override {
        if (auto done = remove(); !done && made_) [[maybe_unused]]
            auto later = devices_.remove_deferred(name_);
        stop();
        ::dmu_close(channel_);
    }

    Status start(const std::string& base, const std::string& scratch) {
        if (auto done = check_dm_name(name_); !done) return done;
        if (auto done = attach(); !done) return done;
        if (auto done = add(base_number, base, O_RDONLY, DMU_DEST_READ_ONLY); !done) return done;
        if (auto done = add(data_number, log_.directory() + "/data", O_RDONLY, DMU_DEST_READ_ONLY); !done) return done;
        if (auto done = add_scratch(scratch); !done) return done;
        thread_ = std::thread([this] { serve(); });
        const auto sectors = log_.header().sectors;
        const auto block = std::to_string(log_.header().block);
        auto info = devices_.create(name_, "", {sectors, "userspace", key() + " 2 logical " + block, false});
        if (!info) return info.error();
        made_ = true;
        path_ = info->path;
        return ok();
    }

    const std::string& path() const override { return path_; }

    Status remove() override {
        if (!made_) return ok();
        auto done = devices_.remove(name_, true);
        if (done || done.error().code == Code::not_found) made_ = false;
        return made_ ? done : ok();
    }

private:
    std::string key() const { return "crash-" + name_; }

    Status attach() {
        const int error = ::dmu_attach(key().c_str(), DMU_ATTACH_CREATE, &channel_);
        if (error == -ENOENT) return Error{Code::not_found, "no /dev/dmu: load the module (modprobe dm-userspace)"};
        if (error != 0) return failed("cannot attach to the target of " + name_, error);
        // There is no successor to wait for: once we are dead, what asks for us fails.
        const int told = ::dmu_set_wait(channel_, 1);
        return told == 0 ? ok() : failed("cannot set how long " + name_ + " waits", told);
    }

    Status add(std::uint32_t number, const std::string& path, int mode, std::uint32_t flags) {
        Descriptor file(::open(path.c_str(), mode | O_CLOEXEC));
        if (file.get() < 0) return system_error("cannot open " + path);
        return add(number, path, file.get(), flags, number == base_number ? log_.header().sectors : 0);
    }

    Status add(std::uint32_t number, const std::string& path, int descriptor, std::uint32_t flags,
               std::uint64_t least) {
        ::dmu_destination answer{};
        const int error = ::dmu_destination_add(channel_, number, descriptor, flags, 0, &answer);
        if (error != 0) return failed("the target cannot use " + path, error);
        if (answer.sectors < least)
            return Error{Code::invalid, path + " has " + std::to_string(answer.sectors) + " sectors, the device of " +
                                            "the log " + std::to_string(least) + ": it is not a copy of it"};
        return ok();
    }

    // Nobody finds it by its name: it goes with the last who has it open.
    Status add_scratch(const std::string& path) {
        Descriptor file(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
        if (file.get() < 0) return system_error("cannot make the scratch file " + path);
        ::unlink(path.c_str());
        // Whole grains, also where the device ends inside one.
        const auto sectors = (log_.header().sectors + grain - 1) / grain * grain;
        if (::ftruncate(file.get(), static_cast<off_t>(sectors * sector_bytes)) != 0)
            return system_error("cannot make the scratch file " + path + " " + std::to_string(sectors) +
                                " sectors long");
        return add(scratch_number, path, file.get(), 0, 0);
    }

    void serve() {
        ::dmu_handlers handlers{};
        handlers.size = sizeof handlers;
        handlers.miss = [](::dmu_channel*, const ::dmu_event* event, void* self) {
            return static_cast<Served*>(self)->miss(*event);
        };
        handlers.changed = [](::dmu_channel*, const ::dmu_event* event, void* self) {
            return static_cast<Served*>(self)->changed(*event);
        };
        ::dmu_run(channel_, &handlers, this);
        // Whatever has ended it: nobody is to hang on this device.
        ::dmu_set_fail(channel_, 1);
    }

    void stop() {
        if (!thread_.joinable()) return;
        ::dmu_stop(channel_);
        thread_.join();
    }

    // The extent at a sector, as long as it goes, up to end.
    ::dmu_command extent(std::uint64_t at, std::uint64_t end) const {
        ::dmu_command map{};
        const auto next = written_.upper_bound(at);
        if (next != written_.begin() && std::prev(next)->second > at) {
            const auto stop = std::min(std::prev(next)->second, end);
            ::dmu_cmd_map_linear(&map, 0, at, stop - at, scratch_number, at, DMU_MAP_WRITABLE);
            return map;
        }
        if (next != written_.end()) end = std::min(end, next->first);
        const auto pieces = contents_.pieces(at, end - at);
        if (pieces.empty() || pieces[0].sector > at) {
            const auto stop = pieces.empty() ? end : pieces[0].sector;
            ::dmu_cmd_map_cow(&map, 0, at, stop - at, base_number, at);
        } else if (pieces[0].zeros()) {
            ::dmu_cmd_map_zero(&map, 0, at, pieces[0].sectors);
        } else {
            ::dmu_cmd_map_cow(&map, 0, at, pieces[0].sectors, data_number, pieces[0].data_sector());
        }
        return map;
    }

    // A write to what the kernel knows to be COW or zeros wants a place: the same sectors of
    // scratch. Everything else first wants to know what is there. A miss is of whole grains,
    // the request that waits may lie anywhere in it: all of it is to be answered.
    int miss(const ::dmu_event& event) {
        if (event.op == DMU_OP_WRITE && (event.flags & DMU_MISS_MAPPED) != 0) {
            ::dmu_command place{};
            ::dmu_cmd_place(&place, event.id, event.start, event.length, scratch_number, event.start, 0);
            return ::dmu_queue(channel_, &place);
        }
        const std::uint64_t stop = event.start + event.length;
        const auto end = std::max(stop, std::min<std::uint64_t>(log_.header().sectors, event.start + answer_sectors));
        for (std::uint64_t at = event.start; at < stop;) {
            auto map = extent(at, end);
            at += map.length;
            if (at >= stop) map.id = event.id;
            if (const int error = ::dmu_queue(channel_, &map); error != 0) return error;
        }
        return 0;
    }

    int changed(const ::dmu_event& event) {
        if (event.kind != DMU_KIND_LINEAR) return 0;
        std::uint64_t start = event.start, end = event.start + event.length;
        // Joined with its neighbours.
        auto at = written_.upper_bound(start);
        if (at != written_.begin() && std::prev(at)->second >= start) --at;
        while (at != written_.end() && at->first <= end) {
            start = std::min(start, at->first);
            end = std::max(end, at->second);
            at = written_.erase(at);
        }
        written_[start] = end;
        return 0;
    }

    DeviceMapper& devices_;
    const std::string name_;
    const LogReader& log_;
    const Contents contents_;
    std::map<std::uint64_t, std::uint64_t> written_;  // in scratch: first sector, end
    ::dmu_channel* channel_ = nullptr;
    std::thread thread_;
    bool made_ = false;
    std::string path_;
};

}  // namespace

Result<std::unique_ptr<CrashDevice>> CrashDevice::make(DeviceMapper& devices, const std::string& name,
                                                       const LogReader& log, Contents contents, const std::string& base,
                                                       const std::string& scratch) {
    auto device = std::make_unique<Served>(devices, name, log, std::move(contents));
    if (auto done = device->start(base, scratch); !done) return done.error();
    return std::unique_ptr<CrashDevice>(std::move(device));
}

}  // namespace dmu::debug
