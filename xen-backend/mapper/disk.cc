// SPDX-License-Identifier: GPL-2.0-or-later
#include "xen-backend/mapper/disk.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include "xen-backend/mapper/log.h"
#include "xen-backend/mapper/service.h"

namespace dmu {

Disk::Disk(DiskSetup setup, KernelAccess kernel, Callbacks callbacks)
    : setup_(std::move(setup)),
      kernel_(std::move(kernel)),
      callbacks_(std::move(callbacks)),
      alarms_(setup_.name),
      wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    thread_ = std::thread([this] { run(); });
}

Disk::~Disk() {
    post({Request::Kind::end, Ending::drop, nullptr});
    thread_.join();
    ::close(wake_);
}

void Disk::post(Request request) {
    {
        MutexLock lock(mutex_);
        requests_.push_back(std::move(request));
    }
    eventfd_write(wake_, 1);
}

void Disk::close() {
    post({Request::Kind::end, Ending::close, nullptr});
}
void Disk::leave() {
    post({Request::Kind::end, Ending::leave, nullptr});
}
void Disk::commit(std::function<void(Status)> done) {
    post({Request::Kind::commit, Ending::none, std::move(done)});
}
void Disk::take_down() {
    post({Request::Kind::take_down, Ending::none, nullptr});
}

std::deque<Disk::Request> Disk::take_requests() {
    eventfd_t count;
    (void)eventfd_read(wake_, &count);
    std::deque<Request> taken;
    MutexLock lock(mutex_);
    taken.swap(requests_);
    return taken;
}

void Disk::publish(const DiskFigures& figures) {
    MutexLock lock(mutex_);
    figures_ = figures;
}

DiskFigures Disk::figures() const {
    MutexLock lock(mutex_);
    return figures_;
}

Result<dmu_state> Disk::state() const {
    MutexLock lock(mutex_);
    if (channel_) return channel_->state();
    return Error{Code::not_found, setup_.name + " is not attached"};
}

void Disk::run() {
    auto opened = setup_.successor ? open_successor(setup_, kernel_) : open_fresh(setup_, kernel_);
    if (!opened) {
        callbacks_.opened(opened.error());
        return;
    }
    Service service(*this, std::move(*opened));
    if (setup_.successor) {
        if (Status taken = service.take_over(); !taken) {
            service.drop();
            callbacks_.opened(taken.error());
            return;
        }
    }
    {
        MutexLock lock(mutex_);
        channel_ = service.channel();
    }
    callbacks_.opened(service.facts());
    Ending ending = service.serve();
    {
        MutexLock lock(mutex_);
        channel_ = nullptr;
    }
    Status ended = ok();
    if (ending == Ending::close) ended = service.close();
    if (ending == Ending::leave) ended = service.leave();
    service.drop();
    if (ending != Ending::drop) callbacks_.closed(ended);
}

}  // namespace dmu
