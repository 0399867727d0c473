// SPDX-License-Identifier: GPL-2.0-or-later
// The seam at the kernel: one attached channel of the target "userspace". The real
// one stands on the C API (dmu.h); tests put a fake behind it.
#pragma once

#include <dm-userspace.h>

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "formats/core/result.h"

struct dmu_channel;

namespace dmu {

// One thread at a time per channel, but add/get/remove_destination, state and set
// may run beside read and write.
class Channel {
public:
    virtual ~Channel() = default;

    virtual const std::string& key() const = 0;
    // Readable when there is an event.
    virtual int poll_descriptor() const = 0;
    // As many events as there are and fit; 0: none now. Never blocks.
    virtual Result<std::size_t> read(std::span<dmu_event> into) = 0;
    // All of them, in order, or an error that names the first one refused; those before it were applied.
    virtual Status write(std::span<const dmu_command> commands) = 0;
    // In order up to the first one refused: how many were applied, or, where the first was refused, the error.
    virtual Result<std::size_t> write_some(std::span<const dmu_command> commands) = 0;

    // The kernel keeps its own reference to the open file; fd stays the caller's.
    virtual Result<dmu_destination> add_destination(unsigned number, int fd, unsigned flags, std::uint64_t cookie) = 0;
    // Code::not_found: no such number.
    virtual Result<dmu_destination> get_destination(unsigned number) = 0;
    // A new descriptor of the destination's own open file; the caller's to close.
    virtual Result<int> destination_descriptor(unsigned number) = 0;
    virtual Status remove_destination(unsigned number) = 0;

    virtual Result<dmu_state> state() = 0;
    // Seconds, or DMU_WAIT_FOREVER.
    virtual Status set_wait(unsigned seconds) = 0;
    virtual Status set_fail(bool fail) = 0;
};

// The module's version and features. Code::not_found: the module is not loaded.
Result<dmu_hello> hello();
// Code::busy: another mapper is attached. Code::not_found: no such key and not create.
Result<std::unique_ptr<Channel>> attach(const std::string& key, bool create);
// The C++ face of a channel that the C API made; takes it over.
std::unique_ptr<Channel> wrap_channel(::dmu_channel* channel);

}  // namespace dmu
