// SPDX-License-Identifier: GPL-2.0-or-later
// xl's configuration files, read by xl's own parser (libxlutil).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "formats/core/result.h"

namespace dmu {

// The list "disk" of a configuration's text; nothing: the text defines none.
// name is for messages. Code::invalid: xl would not read it either; the message
// holds what xl's parser said, and what to do about a configuration that is Python.
Result<std::optional<std::vector<std::string>>> parse_disk_list(const std::string& text, const std::string& name);

// A string literal of xl's configuration language. Not every escape that xl
// documents works in its lexer (\x is refused, octal loses the character), so only
// backslash, quote and newline are escaped.
std::string quote_for_xl(const std::string& text, char quote = '"');

// disk=["...","..."], which on xl's command line replaces the file's list.
std::string disk_assignment(const std::vector<std::string>& entries);

}  // namespace dmu
