// SPDX-License-Identifier: GPL-2.0-or-later
// Administration: disks without Xen, images, repair; and what block-dmu calls.
#include <cstdlib>
#include <iostream>

#include "tools/lib/attach.h"
#include "tools/lib/doctor.h"
#include "tools/lib/gc.h"
#include "tools/lib/hotplug.h"
#include "tools/lib/image_commands.h"
#include "tools/lib/list_command.h"
#include "tools/lib/program.h"
#include "tools/lib/sizes.h"

namespace {

using namespace dmu;

constexpr char program[] = "xen-dmu";

int ended(const Status& status) {
    return status ? 0 : fail(program, status.error());
}

// Every subcommand: its options, then what it does as its callback, which leaves the
// exit status.
class Commands {
public:
    explicit Commands(CLI::App& app) : app_(app) {
        attach();
        detach();
        list();
        commit();
        restart();
        check();
        create();
        gc();
        doctor();
        hotplug();
    }
    int status() const { return status_; }

private:
    template <typename Work>
    void on(CLI::App* command, Work work) {
        command->callback([this, work] { status_ = work(); });
    }

    void attach() {
        auto* command = app_.add_subcommand("attach", "make an image a block device, /dev/mapper/NAME");
        command->add_option("FORMAT:PATH", attach_.spec, "the image, as qcow:/vm/disk.qcow")->required();
        command->add_option("-n,--name", attach_.name, "name of the device")->required();
        command->add_flag("-r,--read-only", attach_.read_only, "the image is not written");
        command->add_option("--on-full", attach_.on_full, "when the file system is full: wait or fail")
            ->check(CLI::IsMember({"wait", "error"}));
        on(command, [this] {
            const RealPorts ports;
            const auto path = attach_disk(*ports, attach_);
            if (!path) return fail(program, path.error());
            std::cout << *path << "\n";
            return 0;
        });
    }

    void detach() {
        auto* command = app_.add_subcommand("detach", "commit, and remove the device");
        command->add_option("NAME", name_, "name of the device")->required();
        on(command, [this] {
            const RealPorts ports;
            const auto detached = detach_disk(*ports, name_);
            if (!detached) return fail(program, detached.error());
            if (*detached == Detached::when_closed)
                std::cerr << program << ": " << name_ << " is still open; it goes when it is closed" << std::endl;
            return 0;
        });
    }

    void list() {
        auto* command = app_.add_subcommand("list", "every active mapping (xen-dmu-list)");
        add_list_options(*command, list_);
        on(command, [this] { return run_list(list_); });
    }

    void commit() {
        auto* command = app_.add_subcommand("commit", "make all metadata durable now");
        command->add_option("NAME", name_, "only this device, domain or instance");
        on(command, [this] {
            const RealPorts ports;
            const auto done = commit_disks(*ports, name_.empty() ? std::nullopt : std::optional(name_));
            return done ? 0 : fail(program, done.error());
        });
    }

    void restart() {
        auto* command = app_.add_subcommand("restart", "run the mappers as they are now installed, under their guests");
        command->add_option("NAME", name_, "only of this device, domain or instance");
        on(command, [this] {
            const RealPorts ports;
            const auto done = restart_mappers(*ports, name_.empty() ? std::nullopt : std::optional(name_));
            return done ? 0 : fail(program, done.error());
        });
    }

    void check() {
        auto* command = app_.add_subcommand("check", "look for faults in an image's metadata");
        command->add_option("FORMAT:PATH", spec_, "the image")->required();
        command->add_flag("-q,--quiet", quiet_, "only the exit status: 0 good, 1 failed, 2 corrupt, 3 leaks only");
        command->add_flag("--json", json_, "the report as JSON");
        command->add_flag("--force", force_, "also while it is attached");
        on(command, [this] {
            const auto report = check_image(spec_, force_);
            if (!report) return fail(program, report.error());
            if (json_)
                std::cout << check_json(*report).dump(2, ' ', false, control::Json::error_handler_t::replace) << "\n";
            else if (!quiet_)
                std::cout << check_text(*report);
            return check_status(*report);
        });
    }

    void create() {
        auto* command = app_.add_subcommand("create", "make an empty image");
        command->add_option("FORMAT:PATH", new_image_.spec, "the image; the file must not exist")->required();
        command->add_option("SIZE", size_, "bytes, or with K, M, G, T; with --backing by default the backing image's");
        command->add_option("--cluster-size", cluster_size_, "unit of allocation");
        command->add_option("--backing", new_image_.backing, "image to start from, as raw:/vm/base.raw")
            ->type_name("FORMAT:PATH");
        on(command, [this] {
            for (const auto* text : {&size_, &cluster_size_}) {
                if (text->empty()) continue;
                const auto size = parse_size(*text);
                if (!size) return fail(program, size.error());
                if (text == &size_)
                    new_image_.size = *size;
                else if (*size > UINT32_MAX)
                    return fail(program, {Code::invalid, "the cluster size " + cluster_size_ + " is too large"});
                else
                    new_image_.cluster_size = static_cast<std::uint32_t>(*size);
            }
            return ended(create_image(new_image_));
        });
    }

    void gc() {
        auto* command = app_.add_subcommand("gc", "collect what is stale");
        command->add_flag("-n,--dry-run", dry_run_, "only say what would be done");
        on(command, [this] {
            const RealPorts ports;
            int status = 0;
            for (const auto& step : collect_garbage(*ports, dry_run_)) {
                std::cout << step.words << std::endl;
                if (!step.status) status = fail(program, step.status.error().in(step.words));
            }
            return status;
        });
    }

    void doctor() {
        auto* command = app_.add_subcommand("doctor", "is everything there that a disk needs?");
        on(command, [] {
            const RealPorts ports;
            int status = 0;
            for (const auto& finding : examine_host(*ports, ports.xenstore_status(), real_places())) {
                std::cout << (finding.good ? "ok       " : "problem  ") << finding.what << "\n";
                if (finding.good) continue;
                std::cout << "         -> " << finding.advice << "\n";
                status = exit_failed;
            }
            return status;
        });
    }

    // Hidden: for block-dmu. The cause of a failure goes where xl prints it from, and to stderr.
    void hotplug() {
        auto* command = app_.add_subcommand("hotplug", "")->group("");
        command->add_option("ACTION", name_, "add or remove")->required()->check(CLI::IsMember({"add", "remove"}));
        on(command, [this] {
            const char* path = std::getenv("XENBUS_PATH");
            const std::string backend = path ? path : "";
            const RealPorts ports;
            const Status status = name_ == "add" ? hotplug_add(*ports, backend) : hotplug_remove(*ports, backend);
            if (!status && ports->xenstore && !backend.empty())
                if (auto told = report_hotplug_error(*ports->xenstore, backend, status.error()); !told)
                    fail(program, told.error());
            return status ? 0 : fail(program, status.error().in(backend));
        });
    }

    CLI::App& app_;
    int status_ = 0;
    AttachOptions attach_;
    ListOptions list_;
    NewImage new_image_;
    std::string name_, spec_, size_, cluster_size_;
    bool quiet_ = false, json_ = false, force_ = false, dry_run_ = false;
};

}  // namespace

int main(int argc, char** argv) {
    CLI::App app("Disk images as block devices, by dm-userspace.", program);
    app.set_version_flag("--version", DMU_PACKAGE_VERSION);
    app.require_subcommand(1);
    // The callbacks run inside parse(): a library's exception is to end as an error, too.
    try {
        const Commands commands(app);
        return run_program(app, argc, argv, [&] { return commands.status(); });
    } catch (const std::exception& error) {
        return fail(program, {Code::io, std::string("internal fault: ") + error.what()});
    }
}
