// SPDX-License-Identifier: GPL-2.0-or-later
// Nothing: the target whose precompiled header the tests share.
int main() {
}
