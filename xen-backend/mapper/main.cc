// SPDX-License-Identifier: GPL-2.0-or-later
#include <getopt.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "xen-backend/mapper/log.h"
#include "xen-backend/mapper/mapper.h"
#include "xen-backend/mapper/process.h"

namespace {

using dmu::Status;

// Time for the first request to come, after a start.
constexpr std::chrono::milliseconds start_grace{30'000};

struct Options {
    std::string instance;
    bool supervise = false;
    bool foreground = false;
};

void usage(FILE* stream) {
    std::fputs(
        "usage: xen-dmu-mapper --instance INSTANCE [--supervise] [--foreground]\n"
        "Serves the dm-userspace devices of one domain (dom-<domid>) or name (name-<NAME>).\n"
        "Started by block-dmu and xen-dmu, or by the unit xen-dmu-mapper@INSTANCE.service.\n"
        "  --supervise   start a successor when it dies (where systemd does not)\n"
        "  --foreground  stay in the foreground, log to stderr\n",
        stream);
}

// The status to exit with at once, or -1.
int parse_options(int count, char** words, Options& options) {
    static const option known[] = {
        {"instance", required_argument, nullptr, 'i'}, {"supervise", no_argument, nullptr, 's'},
        {"foreground", no_argument, nullptr, 'f'},     {"version", no_argument, nullptr, 'V'},
        {"help", no_argument, nullptr, 'h'},           {}};
    for (int letter; (letter = getopt_long(count, words, "i:sfVh", known, nullptr)) != -1;) {
        switch (letter) {
            case 'i':
                options.instance = optarg;
                break;
            case 's':
                options.supervise = true;
                break;
            case 'f':
                options.foreground = true;
                break;
            case 'V':
                std::puts("xen-dmu-mapper " DMU_PACKAGE_VERSION);
                return 0;
            case 'h':
                usage(stdout);
                return 0;
            default:
                usage(stderr);
                return 2;
        }
    }
    Status named = dmu::control::check_instance(options.instance);
    if (named && optind == count) return -1;
    if (!named) std::fprintf(stderr, "xen-dmu-mapper: %s\n", named.error().message.c_str());
    usage(stderr);
    return 2;
}

// For the log and for who waits for the start.
int hopeless(const std::string& instance, const dmu::Error& error) {
    dmu::log_error(error.message);
    std::ofstream(dmu::control::failure_path(instance)) << error.message << "\n";
    return dmu::exit_hopeless;
}

int open_signals() {
    std::signal(SIGPIPE, SIG_IGN);
    sigset_t signals;
    sigemptyset(&signals);
    for (int number : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals, number);
    sigprocmask(SIG_BLOCK, &signals, nullptr);
    return signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
}

void on_signal(int descriptor, dmu::Mapper& mapper) {
    signalfd_siginfo info;
    while (read(descriptor, &info, sizeof info) == static_cast<ssize_t>(sizeof info)) {
        if (info.ssi_signo == SIGHUP) {
            dmu::log_reopen();
            dmu::log_info("log reopened");
        } else {
            dmu::log_notice("stopping");
            mapper.stop();
        }
    }
}

int serve(const std::string& instance) {
    int signals = open_signals();
    dmu::harden_process();
    for (const std::string& path : {dmu::control::run_directory(), dmu::control::disks_directory()}) {
        if (mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) {
            return hopeless(instance, dmu::system_error("making the directory " + path));
        }
    }
    dmu::PidFile pid_file;
    if (Status taken = pid_file.take(dmu::control::pid_path(instance)); !taken) {
        if (taken.error().code != dmu::Code::busy) return hopeless(instance, taken.error());
        // Several disks came at once: whoever started this one finds the other.
        dmu::log_notice(taken.error().message);
        return dmu::exit_hopeless;
    }
    if (auto module = dmu::hello(); !module) {
        pid_file.remove();
        return hopeless(instance, module.error());
    }
    dmu::EventLoop loop;
    dmu::MapperServices services{{dmu::hello, dmu::attach}, dmu::open_device_mapper(), dmu::open_xenstore};
    dmu::Mapper mapper(loop, instance, std::move(services), [&] { loop.quit(); });
    dmu::ControlServer server(loop, [&](const dmu::control::Json& request, const dmu::ControlServer::Reply& reply) {
        mapper.handle(request, reply);
    });
    mapper.may_finish = [&] { return !server.has_clients(); };
    loop.watch(signals, EPOLLIN, [&](std::uint32_t) { on_signal(signals, mapper); });
    mapper.adopt();
    if (Status listens = server.listen(dmu::control::socket_path(instance), getuid()); !listens) {
        return hopeless(instance, listens.error());
    }
    mapper.finish_when_idle(start_grace);
    dmu::lock_memory();
    unlink(dmu::control::failure_path(instance).c_str());
    dmu::log_info("mapper of " + instance + ", version " DMU_PACKAGE_VERSION ", process " + std::to_string(getpid()));
    dmu::notify_ready();
    loop.run();
    // As if killed: state files, devices and the kernel's memory of them are the successor's.
    if (mapper.wants_successor()) return dmu::exit_restart;
    server.stop_listening();
    pid_file.remove();
    dmu::log_info("mapper of " + instance + " ends");
    return 0;
}

}  // namespace

int main(int count, char** words) {
    // Where it is now; another release may be there when it is started again.
    std::error_code unknown;
    const std::string program = std::filesystem::read_symlink("/proc/self/exe", unknown);
    Options options;
    if (int status = parse_options(count, words, options); status >= 0) return status;
    if (!options.foreground) {
        if (Status apart = dmu::daemonise(); !apart) {
            std::fprintf(stderr, "xen-dmu-mapper: %s\n", apart.error().message.c_str());
            return 1;
        }
        dmu::log_to_file(dmu::control::log_path(options.instance));
    }
    auto worker = [&] { return serve(options.instance); };
    auto renew = [&] {
        execv(program.c_str(), words);
        dmu::log_error(dmu::system_error("starting " + program + " again").message);
    };
    return options.supervise ? dmu::supervise(worker, renew) : worker();
}
