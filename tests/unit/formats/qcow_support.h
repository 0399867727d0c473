// SPDX-License-Identifier: GPL-2.0-or-later
// What the tests of formats/qcow share.
#pragma once

#include "tests/unit/formats/support.h"

namespace dmu {

// A key file is a file.
class KeyFile {
public:
    KeyFile() { write_file(path(), Bytes(9, std::byte{'k'})); }
    std::string path() const { return directory_ / "key"; }

private:
    TempDir directory_;
};

// backing, key_file: empty where there is none.
inline Status create_qcow(MemoryDisks& disks, const std::string& path, std::uint64_t size, std::uint32_t cluster,
                          const std::string& backing, const std::string& key_file) {
    CreateOptions options{size, cluster, {}};
    if (!backing.empty()) options.backing = BackingReference{backing, ""};
    if (!key_file.empty()) options.options = {{"key-file", key_file}};
    MemoryFile file(disks.add(path), path);
    return find_format("qcow")->create(file, options);
}

}  // namespace dmu
