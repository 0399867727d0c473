// SPDX-License-Identifier: GPL-2.0-or-later
// A no-op with an operand of seven bytes that nobody else uses tells the plug-in
// that counts instructions what to do.
#pragma once

#define DMU_MARK_OPCODE 0x0f, 0x1f, 0x80
#define DMU_MARK_EMPTY 0x444d5501
#define DMU_MARK_WRITE 0x444d5502

#define DMU_MARK_TEXT_OF(...) #__VA_ARGS__
#define DMU_MARK_TEXT(...) DMU_MARK_TEXT_OF(__VA_ARGS__)
#define DMU_MARK(number) \
    __asm__ volatile(".byte " DMU_MARK_TEXT(DMU_MARK_OPCODE) "\n.long " DMU_MARK_TEXT(number)::: "memory")
