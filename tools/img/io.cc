// SPDX-License-Identifier: GPL-2.0-or-later
// dmu-img io: reads, writes and discards in qemu-io's words, by the three paths that the
// kernel target takes too.
#include <algorithm>
#include <cinttypes>
#include <iostream>
#include <sstream>

#include "formats/core/stand_in.h"
#include "tools/img/commands.h"
#include "tools/img/copying.h"
#include "tools/img/opening.h"
#include "tools/img/pieces.h"
#include "tools/img/text.h"
#include "tools/lib/program.h"

namespace dmu::img {

namespace {

struct Words {
    std::string name;
    std::optional<std::byte> pattern;
    bool zeros = false, verbose = false, quiet = false;
    GuestRange range;
    bool has_range = false;
};

Status parse_pattern(const std::string& text, Words& words) {
    const auto number = parse_number(text);
    if (!number || *number > 255) return Error{Code::invalid, "the pattern '" + text + "' is not a byte"};
    words.pattern = static_cast<std::byte>(*number);
    return ok();
}

Status parse_flag(const std::string& flag, std::istream& rest, Words& words) {
    if (flag == "-P") {
        std::string pattern;
        rest >> pattern;
        return parse_pattern(pattern, words);
    }
    if (flag == "-z")
        words.zeros = true;
    else if (flag == "-v")
        words.verbose = true;
    else if (flag == "-q")
        words.quiet = true;
    else
        return Error{Code::invalid, "there is no '" + flag + "'; there are -P BYTE, -z, -v and -q"};
    return ok();
}

// "write -P 0x5a 0 64k"
Result<Words> parse_words(const std::string& line) {
    std::istringstream stream(line);
    Words words;
    stream >> words.name;
    std::vector<std::uint64_t> numbers;
    for (std::string word; stream >> word;) {
        if (word.starts_with('-')) {
            auto parsed = parse_flag(word, stream, words);
            if (!parsed) return parsed.error().in("'" + line + "'");
            continue;
        }
        const auto number = parse_number(word);
        if (!number) return number.error().in("'" + line + "'");
        numbers.push_back(*number);
    }
    if (numbers.size() != 0 && numbers.size() != 2)
        return Error{Code::invalid, "'" + line + "': an offset and a length are expected"};
    words.has_range = !numbers.empty();
    if (words.has_range) words.range = {{numbers[0]}, numbers[1]};
    return words;
}

void say(const Words& words, const char* what) {
    if (words.quiet) return;
    std::cout << what << " " << words.range.length << "/" << words.range.length << " bytes at offset "
              << words.range.start.bytes << "\n";
}

void dump(std::uint64_t at, std::span<const std::byte> bytes) {
    for (std::size_t line = 0; line < bytes.size(); line += 16) {
        char text[32];
        std::snprintf(text, sizeof text, "%08" PRIx64 ": ", at + line);
        std::cout << text;
        for (const auto byte : bytes.subspan(line, std::min<std::size_t>(16, bytes.size() - line))) {
            std::snprintf(text, sizeof text, " %02x", std::to_integer<unsigned>(byte));
            std::cout << text;
        }
        std::cout << "\n";
    }
}

class Session {
public:
    explicit Session(Chain& chain) : chain_(chain), target_(chain) {}

    Status run(const std::string& line) {
        const auto words = parse_words(line);
        if (!words) return words.error();
        if (words->name == "flush") return target_.flush();
        if (words->name == "length") {
            std::cout << target_.size() << "\n";
            return ok();
        }
        if (words->name == "map") return map(*words);
        if (!words->has_range) return Error{Code::invalid, "'" + line + "': an offset and a length are expected"};
        if (words->range.start.bytes > target_.size() ||
            words->range.length > target_.size() - words->range.start.bytes)
            return Error{Code::invalid, "'" + line + "': the disk has " + std::to_string(target_.size()) + " bytes"};
        if (words->name == "read") return read(*words);
        if (words->name == "write") return write(*words);
        if (words->name == "discard") return discard(*words);
        return Error{Code::invalid,
                     "there is no '" + words->name + "'; there are read, write, discard, flush, map, length"};
    }

private:
    Status read(const Words& words) {
        std::vector<std::byte> buffer(std::min(words.range.length, piece_bytes));
        for (auto at = words.range.start.bytes; at < words.range.end();) {
            const auto piece = std::span(buffer).first(std::min<std::uint64_t>(buffer.size(), words.range.end() - at));
            auto done = target_.read({at}, piece);
            if (!done) return done;
            if (words.verbose) dump(at, piece);
            if (words.pattern) {
                const auto other =
                    std::find_if(piece.begin(), piece.end(), [&](std::byte b) { return b != *words.pattern; });
                if (other != piece.end())
                    return Error{Code::io, "Pattern verification failed at offset " +
                                               std::to_string(at + static_cast<std::uint64_t>(other - piece.begin())) +
                                               ": " + std::to_string(std::to_integer<unsigned>(*other)) +
                                               " is there, not " +
                                               std::to_string(std::to_integer<unsigned>(*words.pattern))};
            }
            at += piece.size();
        }
        say(words, "read");
        return ok();
    }

    Status write(const Words& words) {
        if (words.zeros) {
            auto done = write_zeros(target_, chain_.top().info(), words.range);
            if (done) say(words, "wrote");
            return done;
        }
        constexpr std::byte unless_told{0xcd};
        const std::vector<std::byte> buffer(std::min(words.range.length, piece_bytes),
                                            words.pattern.value_or(unless_told));
        for (auto at = words.range.start.bytes; at < words.range.end();) {
            const auto piece = std::span(buffer).first(std::min<std::uint64_t>(buffer.size(), words.range.end() - at));
            auto done = target_.write({at}, piece);
            if (!done) return done;
            at += piece.size();
        }
        say(words, "wrote");
        return ok();
    }

    Status discard(const Words& words) {
        auto done = target_.discard(words.range);
        if (done) say(words, "discard");
        return done;
    }

    // What is committed and what is not yet.
    Status map(const Words& words) {
        const auto range = words.has_range ? words.range : GuestRange{{0}, target_.size()};
        if (range.length == 0 || range.start.bytes >= target_.size() ||
            range.length > target_.size() - range.start.bytes)
            return Error{Code::invalid, "map: the disk has " + std::to_string(target_.size()) + " bytes"};
        const auto mappings = all_mappings(chain_, range);
        if (!mappings) return mappings.error();
        std::cout << map_text(chain_, *mappings);
        return ok();
    }

    Chain& chain_;
    StandIn target_;
};

struct IoArguments {
    std::string image;
    std::vector<std::string> commands;
    bool read_only = false;
};

// All of them, also behind one that failed, as qemu-io does; what was written is kept.
int run(const IoArguments& arguments) {
    auto chain = open_chain(arguments.image, !arguments.read_only);
    if (!chain) return failed(chain.error());
    int status = 0;
    Session session(**chain);
    const auto take = [&](const std::string& line) {
        if (line.find_first_not_of(" \t") == std::string::npos) return;
        if (auto done = session.run(line); !done) status = failed(done.error());
    };
    for (const auto& line : arguments.commands) take(line);
    if (arguments.commands.empty())
        for (std::string line; std::getline(std::cin, line);) take(line);
    if (auto closed = close_image((*chain)->top()); !closed) status = failed(closed.error());
    return status;
}

}  // namespace

void add_io(Commands& commands) {
    const auto arguments = std::make_shared<IoArguments>();
    auto* command = commands.add("io", "read, write and discard, in qemu-io's words");
    command->add_option("FORMAT:PATH", arguments->image, "the image")->required();
    command
        ->add_option("-c,--command", arguments->commands,
                     "\"write [-P BYTE|-z] OFFSET LENGTH\", \"read [-P BYTE] [-v] ...\", \"discard ...\", \"flush\", "
                     "\"map\", \"length\"; without any: lines of standard input")
        ->type_name("COMMAND")
        ->allow_extra_args(false);
    command->add_flag("-r,--read-only", arguments->read_only, "open for reading only");
    commands.on(command, [arguments] { return run(*arguments); });
}

}  // namespace dmu::img
