// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/lib/xm_command.h"

#include <unistd.h>

#include <algorithm>
#include <optional>

#include "tools/lib/disk_entry.h"
#include "tools/lib/text_file.h"
#include "tools/lib/xl_config.h"

namespace dmu {
namespace {

// The command line of "xl create", read as xl reads it: the first word that is
// neither an option nor NAME=VALUE is the file, each NAME=VALUE a line after it.
struct CreateLine {
    std::optional<std::size_t> file_word;  // index of the word that names the file
    std::string file;
    std::string file_prefix;  // "-f" or "--defconfig=" where glued to it
    std::string extra;        // the lines of NAME=VALUE
    bool help = false;
};

bool takes_file(const std::string& word) {
    return word == "-f" || word == "--defconfig";
}

CreateLine parse_create(const Words& words) {
    CreateLine line;
    const auto name_file = [&](std::size_t index, const std::string& prefix) {
        line.file_word = index;
        line.file_prefix = prefix;
        line.file = words[index].substr(prefix.size());
    };
    for (std::size_t i = 1; i < words.size(); ++i) {
        const std::string& word = words[i];
        if (word == "-h" || word == "--help") line.help = true;
        if (takes_file(word)) {
            if (i + 1 < words.size()) name_file(++i, "");
        } else if (word.starts_with("--defconfig=")) {
            name_file(i, "--defconfig=");
        } else if (word.starts_with("-f")) {
            name_file(i, "-f");
        } else if (word.size() > 1 && word.front() == '-') {
            continue;
        } else if (word.find('=') != std::string::npos) {
            line.extra += word + "\n";
        } else if (!line.file_word) {
            name_file(i, "");
        }
    }
    return line;
}

Result<Words> create(Words words) {
    const CreateLine line = parse_create(words);
    // Without a file xl says what is missing; standard input can be read only once.
    if (line.help || !line.file_word || line.file == "-" || line.file == "/dev/stdin") return words;
    const std::string path = find_config(line.file);
    auto text = read_text_file(path);
    if (!text) return text.error();
    const auto disks = parse_disk_list(*text + "\n" + line.extra, path);
    if (!disks) return disks.error();
    if (path != line.file) words[*line.file_word] = line.file_prefix + path;
    const auto translated = translate_disks(disks->value_or(Words()));
    if (!translated) return translated.error().in(path);
    if (translated->changed) words.push_back(disk_assignment(translated->entries));
    return words;
}

// "block-attach DOM dmu:qcow:/p xvda w [BACKEND]", or xl's words after the domain.
Result<Words> block_attach(const Words& words) {
    Words options, rest;
    for (auto word = words.begin() + 1; word != words.end(); ++word)
        (rest.empty() && word->size() > 1 && word->front() == '-' ? options : rest).push_back(*word);
    if (rest.size() < 2) return words;

    Words result{words.front()};
    result.insert(result.end(), options.begin(), options.end());
    result.push_back(rest[0]);
    if (is_dmu_target(rest[1]) && (rest.size() == 4 || rest.size() == 5) &&
        std::all_of(rest.begin() + 2, rest.end(),
                    [](const std::string& w) { return w.find('=') == std::string::npos; })) {
        auto text = translate_disk_words(rest[1], rest[2], rest[3], rest.size() == 5 ? rest[4] : "");
        if (!text) return text.error();
        result.push_back(*text);
        return result;
    }
    if (is_dmu_target(rest[1]) && rest.size() == 3)
        return Error{Code::invalid, "block-attach: the mode (r or w) is missing after '" + rest[2] + "'"};
    for (std::size_t i = 1; i < rest.size(); ++i) {
        auto one = translate_disk(rest[i]);
        if (!one) return one.error();
        result.push_back(one->text);
    }
    return result;
}

// xm had its options behind, xl wants them before the domain; not every xl knows -f.
Result<Words> block_detach(const Words& words) {
    Words options, rest;
    for (auto word = words.begin() + 1; word != words.end(); ++word)
        (word->starts_with("-") ? options : rest).push_back(*word == "-f" ? "--force" : *word);
    Words result{words.front()};
    result.insert(result.end(), options.begin(), options.end());
    result.insert(result.end(), rest.begin(), rest.end());
    return result;
}

}  // namespace

std::string find_config(const std::string& name) {
    if (access(name.c_str(), F_OK) == 0 || name.find('/') != std::string::npos) return name;
    const std::string in_etc = "/etc/xen/" + name;
    return access(in_etc.c_str(), F_OK) == 0 ? in_etc : name;
}

Result<Words> xl_command(const Words& words) {
    if (words.empty()) return words;
    if (words.front() == "create") return create(words);
    if (words.front() == "block-attach") return block_attach(words);
    if (words.front() == "block-detach") return block_detach(words);
    return words;
}

}  // namespace dmu
