// SPDX-License-Identifier: GPL-2.0-or-later
// The mapper's end of the control socket. The event loop's thread only.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "xen-backend/control/protocol.h"
#include "xen-backend/mapper/event_loop.h"

namespace dmu {

class ControlServer {
public:
    using Json = control::Json;
    // To be called once, at any time, on the loop's thread; what a client that is gone
    // would have heard is dropped.
    using Reply = std::function<void(const Json&)>;
    using Handler = std::function<void(const Json& request, Reply reply)>;

    ControlServer(EventLoop& loop, Handler handler);
    ~ControlServer();
    ControlServer(const ControlServer&) = delete;
    ControlServer& operator=(const ControlServer&) = delete;

    // Takes the place of a socket that a dead mapper left. Only uid allowed_uid is heard.
    Status listen(const std::string& path, uid_t allowed_uid);
    // Unlinks the socket and takes no more clients; those who are there stay.
    void stop_listening();
    bool has_clients() const { return !clients_.empty(); }

private:
    struct Client;

    void accept_clients();
    void on_ready(std::uint64_t id, std::uint32_t events);
    bool read_from(Client& client);
    bool write_to(Client& client);
    void handle_line(std::uint64_t id, const std::string& line);
    void send(std::uint64_t id, const Json& reply);
    void drop(std::uint64_t id);

    EventLoop& loop_;
    Handler handler_;
    std::string path_;
    int listener_ = -1;
    uid_t allowed_uid_ = 0;
    std::uint64_t next_id_ = 1;
    std::map<std::uint64_t, std::unique_ptr<Client>> clients_;
    // Replies outlive the server in other threads' hands.
    std::shared_ptr<ControlServer*> self_;
};

}  // namespace dmu
