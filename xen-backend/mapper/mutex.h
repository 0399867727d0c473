// SPDX-License-Identifier: GPL-2.0-or-later
// A mutex whose use clang checks (-Wthread-safety): what DMU_GUARDED_BY names is touched
// only with the lock held.
#pragma once

#include <mutex>

#if defined(__clang__)
#define DMU_THREAD_ATTRIBUTE(x) __attribute__((x))
#else
#define DMU_THREAD_ATTRIBUTE(x)
#endif
#define DMU_GUARDED_BY(lock) DMU_THREAD_ATTRIBUTE(guarded_by(lock))
#define DMU_REQUIRES(lock) DMU_THREAD_ATTRIBUTE(requires_capability(lock))

namespace dmu {

class DMU_THREAD_ATTRIBUTE(capability("mutex")) Mutex {
public:
    void lock() DMU_THREAD_ATTRIBUTE(acquire_capability()) { mutex_.lock(); }
    void unlock() DMU_THREAD_ATTRIBUTE(release_capability()) { mutex_.unlock(); }

private:
    std::mutex mutex_;
};

class DMU_THREAD_ATTRIBUTE(scoped_lockable) MutexLock {
public:
    explicit MutexLock(Mutex& mutex) DMU_THREAD_ATTRIBUTE(acquire_capability(mutex)) : mutex_(mutex) { mutex_.lock(); }
    ~MutexLock() DMU_THREAD_ATTRIBUTE(release_capability()) { mutex_.unlock(); }
    MutexLock(const MutexLock&) = delete;
    MutexLock& operator=(const MutexLock&) = delete;

private:
    Mutex& mutex_;
};

}  // namespace dmu
