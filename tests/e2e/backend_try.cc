// SPDX-License-Identifier: GPL-2.0-or-later
// xen-backend/devmapper and xen-backend/xenstore against the real things, in a VM, as root:
//     backend_try devmapper | xenstore | module
// One line per check, "ok NAME" or "not ok NAME: why"; status 1 if one failed.
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <string>

#include "xen-backend/devmapper/device_mapper.h"
#include "xen-backend/devmapper/dm_thread.h"
#include "xen-backend/libdmu/channel.h"
#include "xen-backend/xenstore/xenstore.h"

namespace {

using namespace dmu;

int failed = 0;

void check(const std::string& name, bool good, const std::string& detail = {}) {
    std::printf("%s %s%s%s\n", good ? "ok" : "not ok", name.c_str(), detail.empty() ? "" : ": ", detail.c_str());
    std::fflush(stdout);
    if (!good) ++failed;
}

void check(const std::string& name, const Status& done) {
    check(name, !!done, done ? "" : done.error().message);
}

bool has(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

// The message is shown: it is what the administrator gets to read.
template <typename T>
void check_refused(const std::string& name, const Result<T>& done, Code code, const std::string& part) {
    check(name, !done && done.error().code == code && has(done.error().message, part),
          done ? "went well" : done.error().message);
}

DmTable zero(std::uint64_t sectors) {
    return {.sectors = sectors, .target = "zero", .parameters = ""};
}

void try_life(DeviceMapper& dm) {
    const auto made = dm.create("dmu-try", "DMU-try-1", zero(2048));
    check("create", !!made, made ? made->path : made.error().message);
    if (!made) return;
    check("node", access(made->path.c_str(), F_OK) == 0, made->path);
    check("info", made->has_table && !made->suspended && made->open_count == 0 && made->uuid == "DMU-try-1");
    check("info by uuid", !!dm.info_by_uuid("DMU-try-1"));
    const auto devices = dm.list();
    check("list", devices && devices->size() == 1 && (*devices)[0].name == "dmu-try");
    check_refused("same name", dm.create("dmu-try", "DMU-try-2", zero(8)), Code::busy, "dmu-try");
    check_refused("same uuid", dm.create("dmu-try-2", "DMU-try-1", zero(8)), Code::busy, "dmu-try-2");

    check("reload", dm.reload("dmu-try", zero(4096)));
    check("suspend", dm.suspend("dmu-try", true));
    check("suspended", dm.info("dmu-try")->suspended);
    check("resume", dm.resume("dmu-try"));
    const int fd = open(made->path.c_str(), O_RDONLY | O_CLOEXEC);
    check("resized", fd >= 0 && lseek(fd, 0, SEEK_END) == 4096 * 512);
    check("open count", dm.info("dmu-try")->open_count == 1);
    check_refused("remove of an open one", dm.remove("dmu-try", false), Code::busy, "dmu-try");
    check("remove deferred", dm.remove_deferred("dmu-try"));
    check("still there", !!dm.info("dmu-try"));
    close(fd);
    for (int i = 0; i < 50 && dm.info("dmu-try"); ++i) usleep(100000);
    check_refused("gone at the last close", dm.info("dmu-try"), Code::not_found, "dmu-try");
    check("node gone", access(made->path.c_str(), F_OK) != 0);
}

void try_tables(DeviceMapper& dm) {
    const auto below = dm.create("dmu-low", "DMU-low", zero(1024));
    check("create low", !!below);
    const auto above =
        dm.create("dmu-high", "DMU-high",
                  {.sectors = 1024, .target = "linear", .parameters = "/dev/mapper/dmu-low 0", .read_only = true});
    check("create read-only linear", !!above && above->read_only, above ? "" : above.error().message);
    const auto status = dm.status("dmu-high");
    check("status", !!status, status ? *status : status.error().message);
    check("status of none", !dm.status("dmu-none"));
    check_refused("message", dm.message("dmu-high", "hello"), Code::invalid, "hello");
    check("remove high", dm.remove("dmu-high", true));
    check("remove low", dm.remove("dmu-low", true));
    check_refused("remove of none", dm.remove("dmu-low", false), Code::not_found, "dmu-low");

    check_refused("bad table", dm.create("dmu-bad", "DMU-bad", {.sectors = 8, .target = "linear", .parameters = "x"}),
                  Code::invalid, "the kernel said: device-mapper");
    check("nothing left of it", !dm.info("dmu-bad"));
    check_refused("no such target",
                  dm.create("dmu-bad", "DMU-bad", {.sectors = 8, .target = "nosuch", .parameters = ""}),
                  Code::not_found, "modprobe dm-nosuch");
    check("nothing left of that", !dm.info("dmu-bad") && dm.list()->empty());
}

void try_devmapper() {
    DmThread thread;
    const auto dm = open_device_mapper();
    thread.run([&] { try_life(*dm); }).get();
    thread.run([&] { try_tables(*dm); }).get();
}

bool wait_fired(Xenstore& store, const std::string& path) {
    for (int i = 0; i < 50; ++i) {
        pollfd poller{store.poll_descriptor(), POLLIN, 0};
        if (poll(&poller, 1, 100) < 0) return false;
        const auto events = store.fired();
        if (!events) return false;
        for (const auto& event : *events)
            if (event.path == path && event.token == "try") return true;
    }
    return false;
}

void try_xenstore() {
    auto opened = open_xenstore();
    check("open", !!opened, opened ? "" : opened.error().message);
    auto other = open_xenstore();
    if (!opened || !other) return;
    Xenstore& store = **opened;
    check_refused("read of none", store.read("/dmu-try/x"), Code::not_found, "/dmu-try/x");
    check("write", store.write("/dmu-try/x", "1 with spaces, commas"));
    check("read", *store.read("/dmu-try/x") == "1 with spaces, commas");
    check("empty value", store.write("/dmu-try/y", "") && store.read("/dmu-try/y")->empty());
    check("directory", store.directory("/dmu-try")->size() == 2);
    check("exists", *store.exists("/dmu-try/x") && !*store.exists("/dmu-try/z"));
    check("watch", store.watch("/dmu-try", "try"));
    check("fires when set", wait_fired(store, "/dmu-try"));
    check("none waits", store.fired()->empty());
    check("write by another", (*other)->write("/dmu-try/x", "2"));
    check("fires below", wait_fired(store, "/dmu-try/x"));

    int runs = 0;
    check("transaction with a conflict", store.transaction([&](XenstoreView& view) -> Status {
        const auto now = view.read("/dmu-try/x");
        if (!now) return now.error();
        if (runs++ == 0) check("conflicting write", (*other)->write("/dmu-try/x", "3"));
        return view.write("/dmu-try/sum", *now);
    }));
    check("was tried again", runs == 2 && *store.read("/dmu-try/sum") == "3");
    check("remove", store.remove("/dmu-try"));
    check("fires at removal", wait_fired(store, "/dmu-try"));
    check("remove again", store.remove("/dmu-try"));
    check("unwatch", store.unwatch("/dmu-try", "try"));
}

// The channel's own errors, with the module loaded.
void try_module() {
    const auto answer = hello();
    check("hello", answer && answer->version == DMU_VERSION, answer ? "" : answer.error().message);
    check_refused("attach to none", attach("dmu-none", false), Code::not_found, "no device with this key");
    auto channel = attach("dmu-try", true);
    check("attach", !!channel);
    if (!channel) return;
    check_refused("attach twice", attach("dmu-try", false), Code::busy, "another mapper");
    dmu_event event{};
    const auto count = (*channel)->read(std::span(&event, 1));
    check("attached", count && *count == 1 && event.type == DMU_EV_ATTACHED);
    check("none left, no blocking", *(*channel)->read(std::span(&event, 1)) == 0);
    check_refused("no such destination", (*channel)->get_destination(3), Code::not_found, "destination 3");
    check_refused("bad destination", (*channel)->add_destination(3, STDOUT_FILENO, 0, 0), Code::invalid,
                  "regular file");
    const int fd = open("/tmp/dmu-try", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    check("file", fd >= 0 && ftruncate(fd, 1 << 20) == 0);
    const auto added = (*channel)->add_destination(3, fd, 0, 99);
    check("add", added && added->sectors == 2048, added ? "" : added.error().message);
    const auto again = (*channel)->destination_descriptor(3);
    check("descriptor", again && lseek(*again, 0, SEEK_END) == 1 << 20);
    check("cookie", (*channel)->get_destination(3)->cookie == 99);
    check("remove", (*channel)->remove_destination(3));
    check("state", !!(*channel)->state());
    check("wait", (*channel)->set_wait(5));
    unlink("/tmp/dmu-try");
}

}  // namespace

int main(int argc, char** argv) {
    const std::string what = argc == 2 ? argv[1] : "";
    if (what == "devmapper")
        try_devmapper();
    else if (what == "xenstore")
        try_xenstore();
    else if (what == "module")
        try_module();
    else {
        std::fprintf(stderr, "usage: %s devmapper|xenstore|module\n", argv[0]);
        return 2;
    }
    return failed == 0 ? 0 : 1;
}
