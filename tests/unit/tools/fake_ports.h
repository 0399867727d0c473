// SPDX-License-Identifier: GPL-2.0-or-later
// Mappers, devices and xenstore in memory.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "tests/fakes/fake_device_mapper.h"
#include "tests/fakes/fake_xenstore.h"
#include "tools/lib/ports.h"

namespace dmu {

struct FakePorts {
    struct Call {
        std::string instance;
        control::Json request;
        bool ensured;
    };

    FakePorts() {
        ports.instances = [this] {
            std::vector<std::string> names;
            for (const auto& [name, reply] : replies) names.push_back(name);
            return names;
        };
        ports.call = [this](const std::string& instance, const control::Json& request, unsigned) {
            return answer(instance, request, false);
        };
        ports.call_ensured = [this](const std::string& instance, const control::Json& request, unsigned) {
            return answer(instance, request, true);
        };
        ports.mapper_pid = [this](const std::string& instance) { return pids[instance]; };
        ports.states = [this](std::vector<std::string>* problems) {
            if (problems) *problems = state_problems;
            return states;
        };
        ports.devices = devices_.get();
        ports.xenstore = xenstore_.get();
    }

    Result<control::Json> answer(const std::string& instance, const control::Json& request, bool ensured) {
        calls.push_back({instance, request, ensured});
        if (ensured && ensured_reply) return *ensured_reply;
        const auto reply = replies.find(instance);
        if (reply == replies.end()) return Error{Code::not_found, "no mapper " + instance};
        return reply->second;
    }

    FakeXenstore store;
    FakeDmKernel kernel;
    std::map<std::string, Result<control::Json>> replies;  // of running mappers
    const Result<control::Json>* ensured_reply = nullptr;
    std::map<std::string, pid_t> pids;
    std::vector<control::DiskState> states;
    std::vector<std::string> state_problems;
    std::vector<Call> calls;
    Ports ports;

private:
    std::unique_ptr<DeviceMapper> devices_ = kernel.connect();
    std::unique_ptr<Xenstore> xenstore_ = store.connect();
};

}  // namespace dmu
