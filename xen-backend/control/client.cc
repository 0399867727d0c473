// SPDX-License-Identifier: GPL-2.0-or-later
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "xen-backend/control/client.h"
#include "xen-backend/control/control.h"

namespace dmu::control {
namespace {

using Clock = std::chrono::steady_clock;

Error lost(const std::string& instance) {
    return {Code::not_found, "the mapper of " + instance + " ended before it answered; see its log"};
}

// Waits until the socket is ready for what; Code::busy at the deadline.
Status wait_for(int socket, short what, Clock::time_point deadline, const std::string& instance) {
    for (;;) {
        auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
        pollfd entry{socket, what, 0};
        int ready = poll(&entry, 1, static_cast<int>(std::max<long>(left, 0)));
        if (ready > 0) return ok();
        if (ready < 0 && errno != EINTR) return system_error("waiting for the mapper of " + instance);
        if (ready == 0) return Error{Code::busy, "the mapper of " + instance + " did not answer in time; see its log"};
    }
}

Status send_all(int socket, const std::string& text, Clock::time_point deadline, const std::string& instance) {
    std::size_t sent = 0;
    while (sent < text.size()) {
        if (Status ready = wait_for(socket, POLLOUT, deadline, instance); !ready) return ready;
        ssize_t now = send(socket, text.data() + sent, text.size() - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (now < 0 && errno != EAGAIN && errno != EINTR) return lost(instance);
        if (now > 0) sent += static_cast<std::size_t>(now);
    }
    return ok();
}

Result<std::string> receive_line(int socket, Clock::time_point deadline, const std::string& instance) {
    LineReader reader(reply_limit);
    char buffer[65536];
    for (;;) {
        if (Status ready = wait_for(socket, POLLIN, deadline, instance); !ready) return ready.error();
        ssize_t length = recv(socket, buffer, sizeof buffer, MSG_DONTWAIT);
        if (length < 0 && (errno == EAGAIN || errno == EINTR)) continue;
        if (length <= 0) return lost(instance);
        auto lines = reader.feed(buffer, static_cast<std::size_t>(length));
        if (!lines) return lines.error().in("the reply of the mapper of " + instance);
        if (!lines->empty()) return lines->front();
    }
}

}  // namespace

Result<int> connect_mapper(const std::string& instance) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::string path = socket_path(instance);
    if (path.size() >= sizeof address.sun_path) {
        return Error{Code::invalid, "the control socket's path " + path + " is too long"};
    }
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    int handle = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (handle < 0) return system_error("making a socket");
    if (connect(handle, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0) return handle;
    int cause = errno;
    close(handle);
    if (cause == ENOENT || cause == ECONNREFUSED) {
        return Error{Code::not_found, "no mapper of " + instance + " is running"};
    }
    return system_error("connecting to " + path, cause);
}

Result<Json> call(const std::string& instance, const Json& request, unsigned timeout_s) {
    auto deadline = Clock::now() + std::chrono::seconds(timeout_s);
    auto line = encode(request);
    if (!line) return line.error();
    auto handle = connect_mapper(instance);
    if (!handle) return handle.error();
    Status sent = send_all(*handle, *line, deadline, instance);
    Result<std::string> answer = sent ? receive_line(*handle, deadline, instance) : sent.error();
    close(*handle);
    if (!answer) return answer.error();
    auto reply = decode(*answer);
    if (!reply) return reply.error().in("the reply of the mapper of " + instance);
    if (Status said = reply_status(*reply); !said) return said.error();
    return reply;
}

Result<Json> call_ensured(const std::string& instance, const Json& request, unsigned timeout_s) {
    if (Status started = ensure_mapper(instance); !started) return started.error();
    auto reply = call(instance, request, timeout_s);
    // "not found" is also what a mapper may say of a missing image: only a mapper that is
    // gone is worth a second try.
    if (reply || reply.error().code != Code::not_found || connect_is_possible(instance)) return reply;
    if (Status started = ensure_mapper(instance); !started) return started.error();
    return call(instance, request, timeout_s);
}

bool connect_is_possible(const std::string& instance) {
    auto handle = connect_mapper(instance);
    if (handle) close(*handle);
    return static_cast<bool>(handle);
}

}  // namespace dmu::control
