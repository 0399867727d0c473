// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/lib/doctor.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>

#include "tools/lib/listing.h"
#include "xen-backend/control/config.h"
#include "xen-backend/libdmu/channel.h"

namespace dmu {
namespace {

bool exists(const std::string& path) {
    return access(path.c_str(), F_OK) == 0;
}

class Doctor {
public:
    Doctor(const Ports& ports, const Status& xenstore, const DoctorPlaces& places)
        : ports_(ports), xenstore_(xenstore), places_(places) {}

    std::vector<Finding> run() {
        kernel();
        program("mapper", places_.mapper, "install the project (cmake --install)");
        xen();
        configuration();
        run_directory();
        stale();
        return std::move(findings_);
    }

private:
    void good(const std::string& what) { findings_.push_back({true, what, ""}); }
    void problem(const std::string& what, const std::string& advice) { findings_.push_back({false, what, advice}); }

    void kernel() {
        if (exists(places_.device_mapper))
            good("device-mapper: " + places_.device_mapper);
        else
            problem("device-mapper: " + places_.device_mapper + " is missing", "modprobe dm-mod");
        if (!exists(places_.device)) {
            problem("module: " + places_.device + " is missing, dm-userspace is not loaded",
                    "modprobe dm-userspace; where there is no such module, build it: make -f Makefile.kbuild, "
                    "modules_install");
            return;
        }
        const auto answer = hello();
        if (answer)
            good("module: dm-userspace speaks version " + std::to_string(answer->version));
        else
            problem("module: " + answer.error().message, "be root; the module and the tools must be of one release");
    }

    void program(const std::string& what, const std::string& path, const std::string& advice) {
        if (access(path.c_str(), X_OK) == 0)
            good(what + ": " + path);
        else if (exists(path))
            problem(what + ": " + path + " is not executable", "chmod 755 " + path);
        else
            problem(what + ": " + path + " is missing", advice);
    }

    void xen() {
        std::ifstream file(places_.capabilities);
        std::string capabilities;
        if (!file || !std::getline(file, capabilities)) {
            good("Xen: this is no Xen host; 'xen-dmu attach' works without");
            return;
        }
        if (xenstore_)
            good("Xen: xenstored answers");
        else
            problem("Xen: " + xenstore_.error().message, "start it: systemctl start xenstored");
        if (exists(places_.blkback))
            good("Xen: xen-blkback is loaded");
        else
            problem("Xen: xen-blkback is not loaded", "modprobe xen-blkback");
        program("hotplug script", places_.script, "install the project (cmake --install)");
    }

    void configuration() {
        if (!exists(places_.configuration)) {
            good("configuration: no " + places_.configuration + ", everything is at its default");
            return;
        }
        if (const auto config = read_config(places_.configuration))
            good("configuration: " + places_.configuration);
        else
            problem("configuration: " + config.error().message, "see xen-dmu.conf(5)");
    }

    void run_directory() {
        struct stat info;
        const std::string& path = places_.run_directory;
        if (stat(path.c_str(), &info) != 0)
            good("run time: no " + path + " yet, nothing was attached since the boot");
        else if (!S_ISDIR(info.st_mode))
            problem("run time: " + path + " is no directory", "remove it");
        else if (info.st_mode & 077)
            problem("run time: others than root can enter " + path, "chmod 700 " + path);
        else
            good("run time: " + path);
    }

    void stale() {
        const Listing listing = collect_listing(ports_);
        for (const auto& item : listing.stale) problem("stale: " + item.words, item.remedy);
        for (const auto& disk : listing.disks)
            for (const auto& alarm : disk.facts.value("alarms", control::Json::array()))
                problem("alarm: " + disk.facts.value("name", "") + ": " +
                            (alarm.is_string() ? alarm.get<std::string>() : alarm.dump()),
                        "look at the image and at the space left around it");
        const auto encrypted = std::count_if(listing.disks.begin(), listing.disks.end(), [](const auto& disk) {
            return !disk.facts.value("encryption", "").empty();
        });
        if (encrypted != 0)
            good("encrypted: " + std::to_string(encrypted) + " of the attached disks, by the kernel's dm-crypt");
        if (listing.stale.empty()) good("attached: " + std::to_string(listing.disks.size()) + ", nothing stale");
    }

    const Ports& ports_;
    const Status& xenstore_;
    const DoctorPlaces& places_;
    std::vector<Finding> findings_;
};

}  // namespace

DoctorPlaces real_places() {
    DoctorPlaces places;
    places.script = DMU_XEN_SCRIPTDIR "/block-dmu";
    const char* mapper = std::getenv("XEN_DMU_MAPPER");
    places.mapper = mapper ? mapper : DMU_LIBEXECDIR "/xen-dmu-mapper";
    places.configuration = config_path();
    places.run_directory = control::run_directory();
    return places;
}

std::vector<Finding> examine_host(const Ports& ports, const Status& xenstore, const DoctorPlaces& places) {
    return Doctor(ports, xenstore, places).run();
}

}  // namespace dmu
