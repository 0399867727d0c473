// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/debug/held.h"

#include <algorithm>
#include <sstream>

namespace dmu::debug {
namespace {

// The place among the ready ones that is wanted next.
std::size_t choose(const std::vector<std::size_t>& ready, const std::vector<Request*>& held, const HeldOrder& order,
                   std::uint64_t& seed) {
    switch (order.how) {
        case HeldOrder::How::random:
            return next_random(seed) % ready.size();
        case HeldOrder::How::reverse:
            return ready.size() - 1;
        case HeldOrder::How::same:
            return 0;
        case HeldOrder::How::given:
            break;
    }
    const auto rank = [&](std::size_t i) {
        const auto found = std::find(order.given.begin(), order.given.end(), held[ready[i]]->number());
        return found - order.given.begin();
    };
    std::size_t best = 0;
    for (std::size_t i = 1; i < ready.size(); ++i)
        if (rank(i) < rank(best)) best = i;
    return best;
}

}  // namespace

std::uint64_t next_random(std::uint64_t& state) {
    // splitmix64: the same on every machine.
    std::uint64_t x = state += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

std::string HeldOrder::text() const {
    switch (how) {
        case How::random:
            return "random";
        case How::reverse:
            return "reverse";
        case How::same:
            return "same";
        case How::given:
            break;
    }
    std::string text;
    for (const auto number : given) text += (text.empty() ? "" : " ") + std::to_string(number);
    return text;
}

Result<HeldOrder> parse_order(const std::string& text) {
    for (const auto how : {HeldOrder::How::random, HeldOrder::How::reverse, HeldOrder::How::same})
        if (HeldOrder{how}.text() == text) return HeldOrder{how};
    HeldOrder order{HeldOrder::How::given};
    std::istringstream words(text);
    for (std::uint64_t number = 0; words >> number;) order.given.push_back(number);
    if (order.given.empty() || !words.eof())
        return Error{Code::invalid, "'" + text + "' is not an order: random, reverse, same, or numbers of requests"};
    return order;
}

std::vector<Request*> put_in_order(const std::vector<Request*>& held, const HeldOrder& order, std::uint64_t& seed) {
    // How many older ones each has to wait for.
    std::vector<std::vector<std::size_t>> followers(held.size());
    std::vector<std::size_t> waits(held.size(), 0), ready;
    for (std::size_t i = 0; i < held.size(); ++i) {
        for (std::size_t j = 0; j < i; ++j) {
            if (!held[i]->range.overlaps(held[j]->range)) continue;
            followers[j].push_back(i);
            ++waits[i];
        }
        if (waits[i] == 0) ready.push_back(i);
    }
    std::vector<Request*> out;
    while (!ready.empty()) {
        const auto at = ready.begin() + static_cast<std::ptrdiff_t>(choose(ready, held, order, seed));
        const std::size_t next = *at;
        ready.erase(at);
        out.push_back(held[next]);
        for (const auto follower : followers[next])
            if (--waits[follower] == 0) ready.insert(std::upper_bound(ready.begin(), ready.end(), follower), follower);
    }
    return out;
}

}  // namespace dmu::debug
