// SPDX-License-Identifier: GPL-2.0-or-later
// "xm block-list": xl's columns, and the target that xl's own listing cuts off.
#pragma once

#include <string>
#include <vector>

#include "xen-backend/xenstore/xenstore.h"

namespace dmu {

// domains: names or numbers. Code::not_found: no such domain.
Result<std::string> block_list(XenstoreView& xenstore, const std::vector<std::string>& domains);

// Code::not_found: no such domain.
Result<unsigned> find_domain(XenstoreView& xenstore, const std::string& name);

}  // namespace dmu
