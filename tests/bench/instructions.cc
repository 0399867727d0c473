// SPDX-License-Identifier: GPL-2.0-or-later
// A plug-in of QEMU 7.2: how often each translated block of the guest ran, times its
// instructions. dmu-mark, run in the guest, empties the counts or has them written:
// DIRECTORY/N holds lines "ADDRESS INSTRUCTIONS".
//
//     qemu-system-x86_64 -plugin dmu-instructions.so,out=DIRECTORY ...
//
// Debian has no header for plug-ins; what is declared here is of QEMU's
// docs/devel/tcg-plugins.rst, API version 1.
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <string>

#include "mark.h"

extern "C" {
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };
enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };

size_t qemu_plugin_tb_n_insns(const qemu_plugin_tb* tb);
uint64_t qemu_plugin_tb_vaddr(const qemu_plugin_tb* tb);
qemu_plugin_insn* qemu_plugin_tb_get_insn(const qemu_plugin_tb* tb, size_t index);
const void* qemu_plugin_insn_data(const qemu_plugin_insn* insn);
size_t qemu_plugin_insn_size(const qemu_plugin_insn* insn);
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, void (*callback)(uint64_t id, qemu_plugin_tb* tb));
void qemu_plugin_register_vcpu_tb_exec_inline(qemu_plugin_tb* tb, qemu_plugin_op op, void* counter, uint64_t add);
void qemu_plugin_register_vcpu_insn_exec_cb(qemu_plugin_insn* insn, void (*callback)(unsigned vcpu, void* data),
                                            qemu_plugin_cb_flags flags, void* data);

__attribute__((visibility("default"))) extern int qemu_plugin_version;
__attribute__((visibility("default"))) int qemu_plugin_install(uint64_t id, const void* info, int argc, char** argv);
}

int qemu_plugin_version = 1;

namespace {

struct Block {
    uint64_t address, instructions;
};

std::mutex lock;
std::deque<Block> blocks;  // what is counted into stays where it is
std::string directory;
unsigned written = 0;

void empty(unsigned, void*) {
    const std::lock_guard guard(lock);
    for (Block& block : blocks) block.instructions = 0;
}

void write_all(unsigned, void*) {
    const std::lock_guard guard(lock);
    std::map<uint64_t, uint64_t> sums;
    for (const Block& block : blocks)
        if (block.instructions) sums[block.address] += block.instructions;
    const std::string path = directory + "/" + std::to_string(written++);
    FILE* out = fopen(path.c_str(), "w");
    if (!out) {
        perror(path.c_str());
        return;
    }
    for (const auto& [address, instructions] : sums)
        fprintf(out, "%016" PRIx64 " %" PRIu64 "\n", address, instructions);
    if (fclose(out)) perror(path.c_str());
}

// May be a mark in the guest: an instruction that does nothing.
void watch(qemu_plugin_insn* insn) {
    static constexpr uint8_t opcode[] = {DMU_MARK_OPCODE};
    uint32_t number = 0;
    const auto* data = static_cast<const uint8_t*>(qemu_plugin_insn_data(insn));
    if (qemu_plugin_insn_size(insn) != sizeof(opcode) + sizeof(number) || memcmp(data, opcode, sizeof(opcode))) return;
    memcpy(&number, data + sizeof(opcode), sizeof(number));
    if (number == DMU_MARK_EMPTY) qemu_plugin_register_vcpu_insn_exec_cb(insn, empty, QEMU_PLUGIN_CB_NO_REGS, nullptr);
    if (number == DMU_MARK_WRITE)
        qemu_plugin_register_vcpu_insn_exec_cb(insn, write_all, QEMU_PLUGIN_CB_NO_REGS, nullptr);
}

void translated(uint64_t, qemu_plugin_tb* tb) {
    const std::lock_guard guard(lock);
    const size_t count = qemu_plugin_tb_n_insns(tb);
    blocks.push_back({qemu_plugin_tb_vaddr(tb), 0});
    qemu_plugin_register_vcpu_tb_exec_inline(tb, QEMU_PLUGIN_INLINE_ADD_U64, &blocks.back().instructions, count);
    for (size_t i = 0; i < count; i++) watch(qemu_plugin_tb_get_insn(tb, i));
}

}  // namespace

int qemu_plugin_install(uint64_t id, const void*, int argc, char** argv) {
    for (int i = 0; i < argc; i++)
        if (!strncmp(argv[i], "out=", 4)) directory = argv[i] + 4;
    if (directory.empty()) {
        fprintf(stderr, "dmu-instructions: where to write? (,out=DIRECTORY)\n");
        return -1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    return 0;
}
