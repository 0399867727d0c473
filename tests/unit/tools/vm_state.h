// SPDX-License-Identifier: GPL-2.0-or-later
// What the tests of internal snapshots with a VM state share: an image, encrypted or not, by
// the names that qemu's programs and ours have for it.
#pragma once

#include "tests/unit/tools/dmu_img.h"

namespace dmu {

class VmStateImage : public DmuImg {
protected:
    // encryption: "aes", "luks"; empty: none.
    void make_image(const std::string& options, const std::string& encryption = "") {
        std::string how = options;
        if (!encryption.empty()) {
            EXPECT_EQ(shell("printf 'a word' > key").status, 0);
            encryption_ = ",encrypt.key-secret=s,encrypt.format=" + encryption;
            spec_ = "'qcow2;key-file=key:a'";
            how += encryption_;
        }
        if (encryption == "luks") how += ",encrypt.iter-time=10";
        qemu("qemu-img create -q" + secret() + " -f qcow2 -o " + how + " a 4M");
    }
    // With a command of qemu-img or qemu-io.
    std::string secret() const { return encryption_.empty() ? "" : " --object secret,id=s,file=key"; }
    std::string opts() const { return secret() + " --image-opts "; }
    std::string node() const { return "driver=qcow2,file.filename=a" + encryption_; }

    void io_by_qemu(const std::string& command) const {
        const auto ran =
            run_qemu("cd '" + directory_.path() + "' && qemu-io" + opts() + "-c '" + command + "' " + node());
        EXPECT_EQ(ran.status, 0) << command << ": " << ran.output;
        EXPECT_THAT(ran.output, ::testing::Not(::testing::HasSubstr("verification failed"))) << command;
    }
    void snapshot_by_qemu(const std::string& command) const { qemu("qemu-img snapshot " + command + opts() + node()); }
    void keep(const std::string& name) const { qemu("qemu-img convert" + opts() + node() + " -O raw " + name); }
    void sound() const {
        qemu("qemu-img check -q" + opts() + node());
        good("check " + spec_);
    }
    // The disk's content is that of a raw file.
    void is(const std::string& raw) const {
        sound();
        qemu("qemu-img compare -q" + opts() + "driver=raw,file.filename=" + raw + " " + node());
        good("compare raw:" + raw + " " + spec_);
    }
    Json listed() const {
        auto expected = theirs("qcow2", "a")["snapshots"];
        for (auto& snapshot : expected) snapshot.erase("icount");
        const auto ours = info("qcow2", "a")["snapshots"];
        EXPECT_EQ(ours, expected);
        return ours;
    }

    std::string encryption_, spec_ = "qcow2:a";
};

}  // namespace dmu
