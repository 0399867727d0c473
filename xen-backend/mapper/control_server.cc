// SPDX-License-Identifier: GPL-2.0-or-later
#include "xen-backend/mapper/control_server.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

namespace dmu {
namespace {

constexpr std::size_t client_limit = 64;
// A client that does not read its replies is dropped at this many bytes.
constexpr std::size_t backlog_limit = 4 * control::reply_limit;

}  // namespace

struct ControlServer::Client {
    Client(std::uint64_t number, int handle) : id(number), socket(handle), reader(control::request_limit) {}
    ~Client() { close(socket); }

    std::uint64_t id;
    int socket;
    control::LineReader reader;
    std::string outgoing;
    unsigned unanswered = 0;
    bool ended = false;  // nothing more comes from it
};

ControlServer::ControlServer(EventLoop& loop, Handler handler)
    : loop_(loop), handler_(std::move(handler)), self_(std::make_shared<ControlServer*>(this)) {
}

ControlServer::~ControlServer() {
    *self_ = nullptr;
    stop_listening();
    for (auto& [id, client] : clients_) loop_.unwatch(client->socket);
}

Status ControlServer::listen(const std::string& path, uid_t allowed_uid) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path)
        return Error{Code::invalid, "the socket's path " + path + " is too long"};
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    listener_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (listener_ < 0) return system_error("making the control socket");
    unlink(path.c_str());
    mode_t before = umask(0177);
    int bound = bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address);
    umask(before);
    if (bound != 0 || ::listen(listener_, 64) != 0) {
        Error error = system_error("making the control socket " + path);
        close(listener_);
        listener_ = -1;
        return error;
    }
    path_ = path;
    allowed_uid_ = allowed_uid;
    loop_.watch(listener_, EPOLLIN, [this](std::uint32_t) { accept_clients(); });
    return ok();
}

void ControlServer::stop_listening() {
    if (listener_ < 0) return;
    unlink(path_.c_str());
    loop_.unwatch(listener_);
    close(listener_);
    listener_ = -1;
}

void ControlServer::accept_clients() {
    for (;;) {
        int socket = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (socket < 0) return;
        ucred peer{};
        socklen_t length = sizeof peer;
        bool known = getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0;
        if (!known || peer.uid != allowed_uid_ || clients_.size() >= client_limit) {
            close(socket);
            continue;
        }
        std::uint64_t id = next_id_++;
        clients_.emplace(id, std::make_unique<Client>(id, socket));
        loop_.watch(socket, EPOLLIN, [this, id](std::uint32_t events) { on_ready(id, events); });
    }
}

void ControlServer::on_ready(std::uint64_t id, std::uint32_t events) {
    Client& client = *clients_.at(id);
    bool alive = true;
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) alive = read_from(client);
    // read_from() may have answered, and dropped.
    if (!clients_.count(id)) return;
    if (alive && (events & EPOLLOUT)) alive = write_to(client);
    // Closed both ways: nobody is left to hear an answer.
    if (!alive || (events & (EPOLLHUP | EPOLLERR))) drop(id);
}

bool ControlServer::read_from(Client& client) {
    const std::uint64_t id = client.id;
    char buffer[16384];
    for (;;) {
        ssize_t length = recv(client.socket, buffer, sizeof buffer, 0);
        if (length < 0) return errno == EAGAIN || errno == EINTR;
        if (length == 0) {
            // Half closed: it may still want its answers.
            client.ended = true;
            if (client.unanswered == 0 && client.outgoing.empty()) return false;
            loop_.change(client.socket, client.outgoing.empty() ? 0u : static_cast<std::uint32_t>(EPOLLOUT));
            return true;
        }
        auto lines = client.reader.feed(buffer, static_cast<std::size_t>(length));
        if (!lines) {
            ++client.unanswered;
            send(id, control::error_reply(lines.error()));
            return false;
        }
        for (const std::string& line : *lines) {
            ++client.unanswered;
            handle_line(id, line);
            if (!clients_.count(id)) return true;
        }
    }
}

void ControlServer::handle_line(std::uint64_t id, const std::string& line) {
    auto request = control::decode(line);
    if (!request) return send(id, control::error_reply(request.error().in("the request")));
    handler_(*request, [self = self_, id](const Json& reply) {
        if (*self) (*self)->send(id, reply);
    });
}

void ControlServer::send(std::uint64_t id, const Json& reply) {
    auto found = clients_.find(id);
    if (found == clients_.end()) return;
    Client& client = *found->second;
    if (client.unanswered > 0) --client.unanswered;
    client.outgoing += control::encode_lossy(reply);
    if (!write_to(client) || client.outgoing.size() > backlog_limit) drop(id);
}

bool ControlServer::write_to(Client& client) {
    while (!client.outgoing.empty()) {
        ssize_t sent = ::send(client.socket, client.outgoing.data(), client.outgoing.size(), MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0 && errno == EAGAIN) break;
        if (sent < 0) return false;
        client.outgoing.erase(0, static_cast<std::size_t>(sent));
    }
    std::uint32_t wanted = client.ended ? 0u : static_cast<std::uint32_t>(EPOLLIN);
    if (!client.outgoing.empty()) wanted |= EPOLLOUT;
    loop_.change(client.socket, wanted);
    return !client.ended || !client.outgoing.empty() || client.unanswered > 0;
}

void ControlServer::drop(std::uint64_t id) {
    auto found = clients_.find(id);
    if (found == clients_.end()) return;
    loop_.unwatch(found->second->socket);
    clients_.erase(found);
}

}  // namespace dmu
