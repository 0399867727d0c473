// SPDX-License-Identifier: GPL-2.0-or-later
// Where lines come from: a terminal with history and completion, or a pipe.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace dmu::debug {

class LineSource {
public:
    virtual ~LineSource() = default;
    // For poll(); -1: it has ended.
    virtual int descriptor() const = 0;
    // Reads what is there.
    virtual void read() = 0;
    // A line, if there is one.
    virtual std::optional<std::string> next() = 0;
    virtual bool is_terminal() const { return false; }
    // A prompt leaves its line, and comes back.
    virtual void hide() {}
    virtual void show() {}
};

using Completions = std::function<std::vector<std::string>(const std::vector<std::string>& before)>;

// Standard input, whatever it is. There can be one at a time.
std::unique_ptr<LineSource> open_input(const Completions& completions);

}  // namespace dmu::debug
