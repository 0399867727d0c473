// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/lib/doctor.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "tools/lib/listing.h"
#include "tools/lib/xl_config.h"
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
        const auto text = read_text_file(places_.configuration);
        if (!text) {
            problem("configuration: " + text.error().message, "make it readable for root");
            return;
        }
        const auto faults = configuration_faults(*text);
        for (const auto& fault : faults)
            problem("configuration: " + places_.configuration + ": " + fault, "see xen-dmu.conf(5)");
        if (faults.empty()) good("configuration: " + places_.configuration);
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
        if (listing.stale.empty()) good("attached: " + std::to_string(listing.disks.size()) + ", nothing stale");
    }

    const Ports& ports_;
    const Status& xenstore_;
    const DoctorPlaces& places_;
    std::vector<Finding> findings_;
};

std::string trimmed(const std::string& text) {
    const auto first = text.find_first_not_of(" \t\r");
    return first == std::string::npos ? "" : text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
}

bool is_number(const std::string& text) {
    return !text.empty() && text.size() < 10 && text.find_first_not_of("0123456789") == std::string::npos;
}

bool all_absolute(const std::string& list) {
    std::istringstream parts(list);
    std::string part;
    while (std::getline(parts, part, ':'))
        if (!part.empty() && part.front() != '/') return false;
    return true;
}

std::string setting_fault(const std::string& name, const std::string& value) {
    if (name == "roots" || name == "image-roots")
        return all_absolute(value) ? "" : name + " holds a directory that does not begin with /";
    if (name == "on-full") return value == "wait" || value == "error" ? "" : "on-full is neither wait nor error";
    if (name == "wait-seconds")
        return value == "forever" || is_number(value) ? "" : "wait-seconds is neither a number nor forever";
    if (name == "commit-seconds")
        return is_number(value) && std::stoul(value) >= 1 && std::stoul(value) <= 3600
                   ? ""
                   : "commit-seconds is not from 1 to 3600";
    return "there is no setting '" + name + "'";
}

}  // namespace

std::vector<std::string> configuration_faults(const std::string& text) {
    std::vector<std::string> faults;
    std::istringstream lines(text);
    std::string line;
    for (unsigned number = 1; std::getline(lines, line); ++number) {
        line = trimmed(line.substr(0, line.find('#')));
        if (line.empty()) continue;
        const auto equals = line.find('=');
        const std::string fault = equals == std::string::npos ? "expected NAME = VALUE"
                                                              : setting_fault(trimmed(line.substr(0, equals)),
                                                                              trimmed(line.substr(equals + 1)));
        if (!fault.empty()) faults.push_back("line " + std::to_string(number) + ": " + fault);
    }
    return faults;
}

DoctorPlaces real_places() {
    const char* configuration = std::getenv("XEN_DMU_CONFIG");
    DoctorPlaces places;
    places.script = DMU_XEN_SCRIPTDIR "/block-dmu";
    const char* mapper = std::getenv("XEN_DMU_MAPPER");
    places.mapper = mapper ? mapper : DMU_LIBEXECDIR "/xen-dmu-mapper";
    places.configuration = configuration ? configuration : DMU_CONFIG_FILE;
    places.run_directory = control::run_directory();
    return places;
}

std::vector<Finding> examine_host(const Ports& ports, const Status& xenstore, const DoctorPlaces& places) {
    return Doctor(ports, xenstore, places).run();
}

}  // namespace dmu
