// SPDX-License-Identifier: GPL-2.0-or-later
// dmu-img's options stand in its help, its man page and the completion alike.
#include <regex>
#include <set>

#include "tests/unit/tools/dmu_img.h"

namespace dmu {
namespace {

using Names = std::set<std::string>;

Names found(const std::string& text, const std::string& pattern) {
    Names names;
    const std::regex expression(pattern);
    for (std::sregex_iterator it(text.begin(), text.end(), expression), end; it != end; ++it) names.insert((*it)[1]);
    return names;
}

// An option by all its names: "-b", "--backing".
std::vector<Names> options_of_help(const std::string& help) {
    std::vector<Names> options;
    std::istringstream lines(help);
    for (std::string line; std::getline(lines, line);) {
        std::smatch head;
        if (!std::regex_search(line, head, std::regex("^ +(-[A-Za-z-]+(,-[A-Za-z-]+)*)"))) continue;
        const auto names = found(head.str(1), "(-[A-Za-z-]+)");
        if (names.count("--help") == 0) options.push_back(names);
    }
    return options;
}

class DmuImgHelp : public DmuImg {
protected:
    // What the head of the command's paragraph names.
    Names options_of_page(const std::string& command) const {
        const auto source = read_file(DMU_SOURCE_DIR "/tools/dmu-img.1");
        std::string page(reinterpret_cast<const char*>(source.data()), source.size());
        for (auto at = page.find("\\-"); at != std::string::npos; at = page.find("\\-")) page.replace(at, 2, "-");
        const auto head = page.find("\n.BR " + command + " ");
        if (head == std::string::npos) return {"the page does not have it"};
        return found(page.substr(head, page.find('\n', head + 1) - head), "(-[A-Za-z-]+)");
    }
    Names options_of_completion(const std::string& command) const {
        const auto ran =
            shell("bash -c 'compopt() { :; }; . " DMU_SOURCE_DIR "/tools/xen-dmu.bash; COMP_WORDS=(dmu-img " + command +
                  " -); COMP_CWORD=2; _dmu_img; echo \"${COMPREPLY[@]}\"'");
        EXPECT_EQ(ran.status, 0) << ran.output;
        auto names = found(ran.output, "(-[A-Za-z-]+)");
        names.erase("--help");
        return names;
    }
};

bool any_of(const Names& names, const Names& among) {
    return std::any_of(names.begin(), names.end(), [&](const std::string& name) { return among.count(name) != 0; });
}

TEST_F(DmuImgHelp, PageAndCompletionSayTheSame) {
    const auto help = img("--help").output;
    const auto commands = found(help.substr(std::min(help.find("ubcommands"), help.size())), "\n  ([a-z]+) ");
    ASSERT_GE(commands.size(), 11u) << help;
    for (const auto& command : commands) {
        SCOPED_TRACE(command);
        const auto options = options_of_help(img(command + " --help").output);
        const auto page = options_of_page(command), completion = options_of_completion(command);
        Names all;
        for (const auto& option : options) {
            EXPECT_TRUE(any_of(option, page)) << *option.rbegin() << " is not in the man page";
            EXPECT_TRUE(any_of(option, completion)) << *option.rbegin() << " is not completed";
            all.insert(option.begin(), option.end());
        }
        for (const auto& name : page) EXPECT_TRUE(all.count(name)) << name << " is in the man page only";
        for (const auto& name : completion) EXPECT_TRUE(all.count(name)) << name << " is in the completion only";
    }
}

// Formats too.
TEST_F(DmuImgHelp, CompletionKnowsAllFormats) {
    const auto ran = shell("bash -c '. " DMU_SOURCE_DIR "/tools/xen-dmu.bash; echo $_xen_dmu_formats'");
    for (const auto* format : all_formats())
        EXPECT_THAT(ran.output, ::testing::HasSubstr(std::string(format->name) + ":"));
}

}  // namespace
}  // namespace dmu
