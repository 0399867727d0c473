// SPDX-License-Identifier: GPL-2.0-or-later
// Channel over the C API: errors get words.
#include "channel.h"

#include <utility>

#include "dmu.h"

namespace dmu {
namespace {

constexpr const char* device = "/dev/dmu";

Code code_of(int number) {
    switch (number) {
        case EINVAL:
        case ERANGE:
        case EEXIST:
        case ENAMETOOLONG:
        case EBADF:
            return Code::invalid;
        case ENOENT:
            return Code::not_found;
        case EACCES:
        case EPERM:
            return Code::denied;
        case EBUSY:
            return Code::busy;
        case EOPNOTSUPP:
        case EPROTONOSUPPORT:
            return Code::unsupported;
        case ENOSPC:
            return Code::no_space;
        default:
            return Code::io;
    }
}

// number: a positive errno. advice may be empty.
Error failure(const std::string& what, int number, const std::string& advice = {}) {
    Error error = system_error(what, number);
    error.code = code_of(number);
    if (!advice.empty()) error.message += "; " + advice;
    return error;
}

Error cannot_open(int number) {
    const std::string what = std::string("cannot open ") + device;
    switch (number) {
        case ENOENT:
            return failure(what, number,
                           "the kernel module dm-userspace is not loaded; load it with: modprobe dm-userspace");
        case EACCES:
        case EPERM:
            return failure(what, number, "this needs root (CAP_SYS_ADMIN)");
        case EPROTONOSUPPORT:
            return failure(
                what, number,
                "the loaded kernel module dm-userspace speaks a version of the channel that this program does "
                "not know; install the module and the programs of the same release");
        default:
            return failure(what, number);
    }
}

Error cannot_attach(const std::string& key, int number) {
    const std::string what = "cannot attach to the device-mapper target with key '" + key + "'";
    switch (number) {
        case EBUSY:
            return failure(what, number, "another mapper is attached to it");
        case ENOENT:
            return failure(what, number, "no device with this key is there");
        case ENAMETOOLONG:
            return failure(what, number, "a key has at most " + std::to_string(DMU_KEY_MAX - 1) + " bytes");
        default:
            return failure(what, number);
    }
}

const char* name_of(std::uint32_t type) {
    constexpr const char* names[] = {"unknown",   "MAP",   "PLACE",  "FAIL",       "DONE",
                                     "COMMITTED", "LEASE", "REVOKE", "INVALIDATE", "POOL"};
    return type < std::size(names) ? names[type] : names[0];
}

const char* refusal(int number) {
    switch (number) {
        case EINVAL:
            return "malformed";
        case ERANGE:
            return "outside the device or the destination";
        case ENOENT:
            return "no such destination or pool";
        case EOPNOTSUPP:
            return "a feature that the module does not offer";
        default:
            return "";
    }
}

std::string describe(const dmu_command& command) {
    std::string text = name_of(command.type);
    text += " id " + std::to_string(command.id) + " start " + std::to_string(command.start) + " length " +
            std::to_string(command.length) + " kind " + std::to_string(command.kind) + " sequence " +
            std::to_string(command.sequence) + " physical " + std::to_string(command.physical);
    if (command.destination != DMU_NO_DESTINATION) text += " destination " + std::to_string(command.destination);
    return text;
}

class KernelChannel final : public Channel {
public:
    explicit KernelChannel(dmu_channel* channel) : channel_(channel), key_(dmu_key(channel)) {}
    ~KernelChannel() override { dmu_close(channel_); }
    KernelChannel(const KernelChannel&) = delete;
    KernelChannel& operator=(const KernelChannel&) = delete;

    const std::string& key() const override { return key_; }
    int poll_descriptor() const override { return dmu_fd(channel_); }

    Result<std::size_t> read(std::span<dmu_event> into) override {
        const int count = dmu_next_events(channel_, into.data(), into.size());
        if (count < 0) return failure(on("cannot read events"), -count);
        return static_cast<std::size_t>(count);
    }

    Status write(std::span<const dmu_command> commands) override {
        std::size_t sent = 0;
        const int error = dmu_send(channel_, commands.data(), commands.size(), &sent);
        return error == 0 ? ok() : refused(commands, sent, -error);
    }

    Result<std::size_t> write_some(std::span<const dmu_command> commands) override {
        std::size_t sent = 0;
        const int error = dmu_send(channel_, commands.data(), commands.size(), &sent);
        if (error != 0 && sent == 0) return refused(commands, sent, -error);
        return sent;
    }

    Result<dmu_destination> add_destination(unsigned number, int fd, unsigned flags, std::uint64_t cookie) override {
        dmu_destination answer{};
        const int error = dmu_destination_add(channel_, number, fd, flags, cookie, &answer);
        if (error != 0) return failure(on(destination("cannot add", number)), -error, add_advice(-error));
        return answer;
    }

    Result<dmu_destination> get_destination(unsigned number) override {
        dmu_destination answer{};
        const int error = dmu_destination_get(channel_, number, &answer);
        if (error != 0) return failure(on(destination("cannot look at", number)), -error);
        return answer;
    }

    Result<int> destination_descriptor(unsigned number) override {
        const int fd = dmu_destination_fd(channel_, number);
        if (fd < 0) return failure(on(destination("cannot take the descriptor of", number)), -fd);
        return fd;
    }

    Status remove_destination(unsigned number) override {
        const int error = dmu_destination_remove(channel_, number);
        if (error == 0) return ok();
        return failure(on(destination("cannot remove", number)), -error,
                       error == -EBUSY ? "it is still mapped or in flight" : "");
    }

    Result<dmu_state> state() override {
        dmu_state state{};
        const int error = dmu_get_state(channel_, &state);
        if (error != 0) return failure(on("cannot read the state"), -error);
        return state;
    }

    Status set_wait(unsigned seconds) override {
        const int error = dmu_set_wait(channel_, seconds);
        return error == 0 ? ok() : failure(on("cannot set the limit for waiting I/O"), -error);
    }

    Status set_fail(bool fail) override {
        const int error = dmu_set_fail(channel_, fail ? 1 : 0);
        return error == 0 ? ok() : failure(on("cannot set what becomes of waiting I/O"), -error);
    }

private:
    Error refused(std::span<const dmu_command> commands, std::size_t index, int number) const {
        if (index >= commands.size()) return failure(on("cannot send commands"), number);
        return failure(on("command " + std::to_string(index + 1) + " of " + std::to_string(commands.size()) + " (" +
                          describe(commands[index]) + ") was refused"),
                       number, refusal(number));
    }
    std::string on(const std::string& what) const { return "target '" + key_ + "': " + what; }
    static std::string destination(const char* what, unsigned number) {
        return std::string(what) + " destination " + std::to_string(number);
    }
    static const char* add_advice(int number) {
        switch (number) {
            case EINVAL:
                return "it has to be a regular file (no swap file) or a block device other than the device itself, of "
                       "fitting block size";
            case EEXIST:
                return "the number is taken";
            case EBADF:
                return "it is not open for what is wanted";
            default:
                return "";
        }
    }

    dmu_channel* channel_;
    std::string key_;
};

}  // namespace

std::unique_ptr<Channel> wrap_channel(dmu_channel* channel) {
    return std::make_unique<KernelChannel>(channel);
}

Result<dmu_hello> hello() {
    dmu_hello answer{};
    std::uint64_t features = 0;
    const int error = dmu_query(&answer.version, &features);
    if (error < 0) return cannot_open(-error);
    answer.features = features;
    return answer;
}

Result<std::unique_ptr<Channel>> attach(const std::string& key, bool create) {
    dmu_channel* channel = nullptr;
    const int error = dmu_attach(key.c_str(), create ? DMU_ATTACH_CREATE : 0, &channel);
    if (error == 0) return wrap_channel(channel);
    // One ENOENT, two causes.
    const int open_error = dmu_query(nullptr, nullptr);
    if (open_error < 0) return cannot_open(-open_error);
    return cannot_attach(key, -error);
}

}  // namespace dmu
