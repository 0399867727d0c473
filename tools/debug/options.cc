// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/debug/options.h"

#include <sstream>

#include "tools/lib/sizes.h"

namespace dmu::debug {

OptionParser::OptionParser(CLI::App& app) {
    app.add_option("DEVICE|FORMAT:PATH", options_.source, "a block device, or an image as qcow2:/vm/a.qcow2")
        ->required();
    app.add_option("-n,--name", options_.name, "of the device that is made, /dev/mapper/NAME")->required();
    app.add_option("--log", options_.log, "log to this directory, which must not have a log yet")->type_name("DIR");
    app.add_option("--data", data_, "of writes in the log: full, hash or none")
        ->check(CLI::IsMember({"full", "hash", "none"}));
    app.add_option("--base", options_.base, "first copy the device to this file")->type_name("FILE");
    app.add_option("--log-range", ranges_, "log only what touches this range (2048+8, 1M+64K)")->type_name("RANGE");
    app.add_option("--log-ops", ops_, "log only these: write,flush,discard,zero,read")->type_name("OPERATIONS");
    app.add_option("--log-size", size_, "log only requests of so many sectors (8, 8-64, 8-)")->type_name("SIZE");
    app.add_flag("--log-reads", options_.log_reads, "log reads too, and step through them");
    app.add_option("--rule", options_.rules, "a rule from the start on, as 'drop write at 2048+8 once'")
        ->type_name("RULE")
        ->allow_extra_args(false);
    app.add_option("--order", order_, "of held writes: random, reverse or same")->type_name("ORDER");
    app.add_option("--seed", options_.seed, "of what is random (1)")->type_name("NUMBER");
    app.add_option("--memory", memory_, "for data that is not in the log (1G)")->type_name("SIZE");
    app.add_option("--hold-limit", options_.hold_limit, "held writes at a time (4096)")
        ->type_name("NUMBER")
        ->check(CLI::Range(1u, 65536u));
    app.add_option("--on-death", on_death_, "of the debugger: fail what waits for it, or have it wait for another")
        ->check(CLI::IsMember({"fail", "wait"}));
    app.add_option("--script", options_.script, "commands from a file")->type_name("FILE");
    app.add_option("-c,--command", options_.commands, "a command; several in order, after the script")
        ->type_name("COMMAND")
        ->allow_extra_args(false);
    app.add_option("--run", options_.run, "run this by sh once the device is there, and quit when it has ended")
        ->type_name("COMMAND");
    app.add_flag("--stopped", options_.stopped, "begin paused");
    app.add_flag("--json", options_.json, "say everything as JSON, one object per line");
}

Result<Options> OptionParser::take() {
    options_.data = data_ == "full" ? KeepData::full : data_ == "hash" ? KeepData::hash : KeepData::none;
    options_.on_death = on_death_ == "wait" ? OnDeath::wait : OnDeath::fail;
    const auto order = parse_order(order_);
    if (!order) return order.error();
    options_.order = *order;
    for (const auto& text : ranges_) {
        const auto range = parse_range(text);
        if (!range) return range.error().in("--log-range");
        options_.filter.ranges.push_back(*range);
    }
    if (!size_.empty()) {
        const auto size = parse_sizes(size_);
        if (!size) return size.error().in("--log-size");
        options_.filter.size = *size;
    }
    if (!ops_.empty()) {
        options_.filter.ops = 0;
        std::istringstream list(ops_);
        for (std::string name; std::getline(list, name, ',');) {
            const auto op = op_named(name);
            if (!op)
                return Error{Code::invalid, "--log-ops: there is no '" + name + "'; read, write, flush, discard, zero"};
            options_.filter.ops |= 1u << static_cast<unsigned>(*op);
            options_.log_reads = options_.log_reads || *op == Op::read;
        }
    }
    if (!memory_.empty()) {
        const auto memory = parse_size(memory_);
        if (!memory) return memory.error().in("--memory");
        options_.memory = *memory;
    }
    return options_;
}

}  // namespace dmu::debug
