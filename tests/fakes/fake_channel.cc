// SPDX-License-Identifier: GPL-2.0-or-later
// Keys, and the mapper's Channel on one.
#include "tests/fakes/fake_channel.h"

#include <unistd.h>

#include "tests/fakes/fake_target.h"

namespace dmu {

struct FakeKernel::State : fake::State {};

namespace {

Code code_of(int number) {
    switch (number) {
        case ENOENT:
            return Code::not_found;
        case EBUSY:
            return Code::busy;
        case EINVAL:
        case ERANGE:
        case EEXIST:
        case EBADF:
            return Code::invalid;
        case EOPNOTSUPP:
            return Code::unsupported;
        default:
            return Code::io;
    }
}

Error failure(const std::string& what, int number) {
    Error error = system_error(what, number);
    error.code = code_of(number);
    return error;
}

class FakeChannel final : public Channel {
public:
    FakeChannel(std::shared_ptr<fake::State> state, fake::Target& target, std::string key)
        : state_(std::move(state)), target_(target), key_(std::move(key)) {}
    ~FakeChannel() override {
        const std::lock_guard guard(state_->lock);
        target_.detach();
    }
    FakeChannel(const FakeChannel&) = delete;
    FakeChannel& operator=(const FakeChannel&) = delete;

    const std::string& key() const override { return key_; }
    int poll_descriptor() const override { return target_.poll_descriptor(); }

    Result<std::size_t> read(std::span<dmu_event> into) override {
        const std::lock_guard guard(state_->lock);
        return target_.pop(into);
    }

    Status write(std::span<const dmu_command> commands) override {
        const std::lock_guard guard(state_->lock);
        int error = 0;
        const std::size_t done = apply(commands, error);
        return done == commands.size() ? ok() : refused(done, commands.size(), error);
    }

    Result<std::size_t> write_some(std::span<const dmu_command> commands) override {
        const std::lock_guard guard(state_->lock);
        int error = 0;
        const std::size_t done = apply(commands, error);
        if (done == 0 && error != 0) return refused(done, commands.size(), error);
        return done;
    }

    Result<dmu_destination> add_destination(unsigned number, int fd, unsigned flags, std::uint64_t cookie) override {
        const std::lock_guard guard(state_->lock);
        dmu_destination destination{};
        destination.number = number;
        destination.fd = fd;
        destination.flags = flags;
        destination.cookie = cookie;
        if (const int error = target_.add_destination(destination)) return on("cannot add destination", number, error);
        return destination;
    }

    Result<dmu_destination> get_destination(unsigned number) override {
        const std::lock_guard guard(state_->lock);
        dmu_destination destination{};
        destination.number = number;
        if (const int error = target_.get_destination(destination))
            return on("cannot look at destination", number, error);
        return destination;
    }

    Result<int> destination_descriptor(unsigned number) override {
        const std::lock_guard guard(state_->lock);
        int fd = -1;
        if (const int error = target_.destination_descriptor(number, fd))
            return on("cannot take the descriptor of destination", number, error);
        return fd;
    }

    Status remove_destination(unsigned number) override {
        const std::lock_guard guard(state_->lock);
        const int error = target_.remove_destination(number);
        return error == 0 ? ok() : on("cannot remove destination", number, error);
    }

    // Takes the lock itself.
    Result<dmu_state> state() override { return target_.state(); }

    Status set_wait(unsigned seconds) override {
        const std::lock_guard guard(state_->lock);
        target_.set_wait(seconds);
        return ok();
    }

    Status set_fail(bool fail) override {
        const std::lock_guard guard(state_->lock);
        target_.set_fail(fail);
        return ok();
    }

private:
    std::size_t apply(std::span<const dmu_command> commands, int& error) {
        for (std::size_t i = 0; i < commands.size(); ++i) {
            error = target_.command(commands[i]);
            if (error == 0) continue;
            target_.refuse(commands[i], error);
            return i;
        }
        return commands.size();
    }
    Error refused(std::size_t index, std::size_t count, int error) const {
        return failure("target '" + key_ + "': command " + std::to_string(index + 1) + " of " + std::to_string(count) +
                           " was refused",
                       error);
    }
    Error on(const char* what, unsigned number, int error) const {
        return failure("target '" + key_ + "': " + what + " " + std::to_string(number), error);
    }

    const std::shared_ptr<fake::State> state_;
    fake::Target& target_;
    const std::string key_;
};

}  // namespace

FakeKernel::FakeKernel(std::uint64_t features) : state_(std::make_shared<State>()) {
    state_->features = features;
    state_->self = state_;
}

FakeKernel::~FakeKernel() {
    // Requests that still wait hold the state: end them.
    for (auto& [key, target] : state_->targets) target->remove_table();
}

FakeTarget& FakeKernel::target(const std::string& key) {
    const std::lock_guard guard(state_->lock);
    auto& slot = state_->targets[key];
    if (!slot) slot = std::make_unique<fake::Target>(*state_, key);
    return *slot;
}

bool FakeKernel::has_key(const std::string& key) const {
    const std::lock_guard guard(state_->lock);
    const auto found = state_->targets.find(key);
    return found != state_->targets.end() && found->second->exists();
}

dmu_hello FakeKernel::hello() const {
    dmu_hello hello{};
    hello.version = DMU_VERSION;
    hello.features = state_->features;
    return hello;
}

Result<std::unique_ptr<Channel>> FakeKernel::attach(const std::string& key, bool create) {
    target(key);
    const std::lock_guard guard(state_->lock);
    fake::Target& found = *state_->targets[key];
    const std::string what = "cannot attach to the device-mapper target with key '" + key + "'";
    if (found.is_attached()) return failure(what, EBUSY);
    if (!found.exists() && !create) return failure(what, ENOENT);
    found.attach();
    return std::unique_ptr<Channel>(std::make_unique<FakeChannel>(state_, found, key));
}

}  // namespace dmu
