// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/debug/offline/bisect.h"

#include "tools/debug/offline/image_file.h"

namespace dmu::debug {

namespace {

class Bisection {
public:
    Bisection(const LogReader& log, const BisectOptions& options, const std::function<void(const std::string&)>& say)
        : log_(log), options_(options), say_(say) {
        for (const auto& record : log.records()) {
            const bool any = options.points.kinds.empty() && options.points.flags == 0;
            const bool counts = any ? record.reached() || (options.crashes != 0 && record.op == Op::flush) : true;
            if (counts && options.points.takes(record)) points_.push_back(record.number);
        }
        result_.points = points_.size();
    }

    Result<BisectResult> run() {
        if (auto good = base_is_good(); !good) return good.error();
        auto done = options_.linear ? linear() : halving();
        if (!done) return done.error();
        return result_;
    }

private:
    Status base_is_good() {
        const auto bad = probe(0);
        if (!bad) return bad.error();
        if (!*bad) return ok();
        return Error{Code::invalid, "the check fails on the base " + options_.base +
                                        " already, before the log's first request (status " +
                                        std::to_string((*bad)->judged.status) + "):\n" + (*bad)->judged.output};
    }

    Status linear() {
        std::uint64_t good = 0;
        for (const auto number : points_) {
            auto bad = probe(number);
            if (!bad) return bad.error();
            if (*bad) return found(std::move(**bad), good);
            good = number;
        }
        return ok();
    }

    Status halving() {
        if (points_.empty()) return ok();
        auto last = probe(points_.back());
        if (!last) return last.error();
        if (!*last) return ok();
        auto worst = std::move(**last);
        // good: index of a good point + 1.
        std::size_t good = 0, bad = points_.size() - 1;
        while (good < bad) {
            const auto middle = good + (bad - good) / 2;
            auto tried = probe(points_[middle]);
            if (!tried) return tried.error();
            if (*tried) {
                bad = middle;
                worst = std::move(**tried);
            } else {
                good = middle + 1;
            }
        }
        // The scratch image is to be the bad one.
        auto again = probe(worst.number);
        if (!again) return again.error();
        if (*again) worst = std::move(**again);
        return found(std::move(worst), good == 0 ? 0 : points_[good - 1]);
    }

    Status found(BadPoint bad, std::uint64_t good) {
        bad.good_before = good;
        result_.bad = std::move(bad);
        return ok();
    }

    Result<std::optional<BadPoint>> probe(std::uint64_t number) {
        if (options_.crashes == 0) return check(number, reached_up_to(log_, number), "");
        const auto point = crash_point(log_, number);
        if (!point) return point.error();
        for (const auto& state : sample_states(*point, options_.crashes, options_.seed, options_.torn)) {
            auto bad = check(number, state, state_text(*point, state));
            if (!bad || *bad) return bad;
        }
        return std::optional<BadPoint>();
    }

    Result<std::optional<BadPoint>> check(std::uint64_t number, const CrashState& state, const std::string& text) {
        {
            const auto image = make_image(log_, contents_of(state), options_.base, options_.scratch);
            if (!image) return image.error();
        }
        auto judged = judge(options_.command, options_.scratch);
        if (!judged) return judged.error();
        result_.checks++;
        say_(std::to_string(number) +
             (judged->good() ? " good" : " bad (status " + std::to_string(judged->status) + ")") +
             (text.empty() ? "" : ", " + text));
        if (judged->good()) return std::optional<BadPoint>();
        return std::optional(BadPoint{number, 0, text, std::move(*judged)});
    }

    const LogReader& log_;
    const BisectOptions& options_;
    const std::function<void(const std::string&)>& say_;
    std::vector<std::uint64_t> points_;
    BisectResult result_;
};

}  // namespace

Result<BisectResult> bisect(const LogReader& log, const BisectOptions& options,
                            const std::function<void(const std::string&)>& say) {
    return Bisection(log, options, say).run();
}

}  // namespace dmu::debug
