// SPDX-License-Identifier: GPL-2.0-or-later
// The devices of an encrypted image: their tables, the order in which they come and go.
#include <gmock/gmock.h>
#include <sys/mman.h>
#include <unistd.h>

#include <fstream>

#include "formats/crypto/sector_cipher.h"
#include "tests/fakes/recording_file.h"
#include "tests/unit/mapper/support.h"
#include "xen-backend/mapper/crypt_stack.h"

namespace dmu::test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr std::uint64_t size = 8 << 20;
const std::string passphrase = "a passphrase of the test";

// The crypt device's node: an open file that stands for it.
Result<int> stand_in_node(const std::string&, bool) {
    const int file = memfd_create("crypt", MFD_CLOEXEC);
    if (file < 0 || ftruncate(file, size) != 0) return system_error("making a file in memory");
    return file;
}

class Crypt : public ::testing::Test {
protected:
    void SetUp() override {
        std::ofstream(place_.path("key")) << passphrase;
        host_.store.set("backend/vbd/5/51712/frontend", "/local/domain/5/device/vbd/51712");
    }

    KernelAccess access() {
        KernelAccess access = access_to(host_.kernel);
        access.open_device = stand_in_node;
        return access;
    }
    std::string make(const std::string& format, const std::string& encryption, const std::string& name = "disk",
                     const std::string& backing = "") {
        std::ofstream(place_.path(name)).close();
        auto file = open_file(place_.path(name), {.writable = true});
        EXPECT_TRUE(file);
        CreateOptions options;
        options.virtual_size = size;
        if (!backing.empty()) options.backing = BackingReference{backing, "raw"};
        options.options = {{"key-file", place_.path("key")}};
        if (!encryption.empty()) options.options.emplace_back("encryption", encryption);
        if (encryption == "luks") options.options.emplace_back("iter_time", "1");
        const Status made = find_format(format)->create(**file, options);
        EXPECT_TRUE(made) << (made ? "" : made.error().message);
        return format + ";key-file=" + place_.path("key") + ":" + place_.path(name);
    }
    control::Json add(const std::string& spec) {
        auto reply = control::call("dom-5", add_request(spec));
        return reply ? *reply : control::error_reply(reply.error());
    }
    std::string key() const { return host_.dm.device("dmu-5-51712").info.uuid.substr(4); }

    Place place_;
    TestHost host_;
};

TEST_F(Crypt, ComesFromTheBaseUpAndGoesFromTheTopDown) {
    KernelAccess kernel = access();
    TestMapper mapper(host_, "dom-5", &kernel);
    const auto added = add(make("qcow2", "luks"));
    ASSERT_TRUE(added.at("ok").get<bool>()) << added;
    EXPECT_THAT(host_.dm.history(), ElementsAre("+dmu-5-51712+base-0.0", "+dmu-5-51712+crypt-0.0", "+dmu-5-51712"));
    ASSERT_TRUE(control::call("dom-5", remove_request()));
    EXPECT_THAT(host_.dm.history(), ElementsAre("+dmu-5-51712+base-0.0", "+dmu-5-51712+crypt-0.0", "+dmu-5-51712",
                                                "-dmu-5-51712", "-dmu-5-51712+crypt-0.0", "-dmu-5-51712+base-0.0"));
    EXPECT_TRUE(place_.states().empty());
}

TEST_F(Crypt, TablesOfLuks) {
    KernelAccess kernel = access();
    TestMapper mapper(host_, "dom-5", &kernel);
    ASSERT_TRUE(add(make("qcow2", "luks")).at("ok").get<bool>());
    const auto base = host_.dm.device("dmu-5-51712+base-0.0"), crypt = host_.dm.device("dmu-5-51712+crypt-0.0");
    EXPECT_EQ(base.info.uuid, "DMU-" + key() + "+base-0.0");
    EXPECT_EQ(base.active.target, "userspace");
    EXPECT_EQ(base.active.parameters, key() + "+base-0.0 2 logical 512");
    EXPECT_EQ(base.active.sectors, base_sectors);
    EXPECT_EQ(crypt.info.uuid, "DMU-" + key() + "+crypt-0.0");
    EXPECT_EQ(crypt.active.target, "crypt");
    EXPECT_EQ(crypt.active.sectors, base_sectors);
    EXPECT_EQ(crypt.active.parameters,
              "aes-xts-plain64 :64:logon:dmu:dmu-5-51712+crypt-0.0 0 253:" + std::to_string(base.info.minor) + " 0");
    EXPECT_EQ(crypt.secret_description, "dmu:dmu-5-51712+crypt-0.0");
    EXPECT_EQ(crypt.secret.size(), 64u);
}

TEST_F(Crypt, TablesOfLegacyAes) {
    for (const std::string format : {"qcow2", "qcow"}) {
        KernelAccess kernel = access();
        TestMapper mapper(host_, "dom-5", &kernel);
        const auto added = add(make(format, format == "qcow" ? "" : "aes", format));
        ASSERT_TRUE(added.at("ok").get<bool>()) << added;
        const auto base = host_.dm.device("dmu-5-51712+base-0.0"), crypt = host_.dm.device("dmu-5-51712+crypt-0.0");
        EXPECT_EQ(base.active.sectors, size / 512);
        EXPECT_EQ(base.active.parameters, key() + "+base-0.0 4 logical 512 map_memory 65536");
        EXPECT_THAT(crypt.active.parameters, HasSubstr("aes-cbc-plain64 :16:logon:"));
        EXPECT_EQ(std::string(reinterpret_cast<const char*>(crypt.secret.data()), crypt.secret.size()),
                  passphrase.substr(0, 16));
        EXPECT_THAT(host_.dm.device("dmu-5-51712").active.parameters, Not(HasSubstr("discard")));
        ASSERT_TRUE(control::call("dom-5", remove_request()));
    }
}

TEST_F(Crypt, ADeviceThatCantBeMadeLeavesNothing) {
    KernelAccess kernel = access();
    TestMapper mapper(host_, "dom-5", &kernel);
    const auto spec = make("qcow2", "luks");
    host_.dm.fail_next_load({Code::invalid, "no such cipher"});
    const auto added = add(spec);
    EXPECT_FALSE(added.at("ok").get<bool>());
    EXPECT_THAT(added.at("error").get<std::string>(), HasSubstr("no such cipher"));
    EXPECT_FALSE(host_.dm.exists("dmu-5-51712+base-0.0"));
    EXPECT_FALSE(host_.dm.exists("dmu-5-51712+crypt-0.0"));
    EXPECT_TRUE(place_.states().empty());
    EXPECT_TRUE(add(spec).at("ok").get<bool>());
}

TEST_F(Crypt, TheStateSaysWhatASuccessorHasToFind) {
    KernelAccess kernel = access();
    const auto spec = make("qcow2", "luks");
    {
        TestMapper mapper(host_, "dom-5", &kernel);
        ASSERT_TRUE(add(spec).at("ok").get<bool>());
    }
    const auto states = control::all_states();
    ASSERT_EQ(states.size(), 1u);
    ASSERT_EQ(states[0].files.size(), 1u);
    EXPECT_TRUE(states[0].files[0].encrypted);
    TestMapper successor(host_, "dom-5", &kernel);
    EXPECT_TRUE(eventually([] {
        auto list = control::call("dom-5", {{"command", "list"}});
        return list && list->at("disks").at(0).at("stage") == "active" &&
               list->at("disks").at(0).at("encryption") == "luks";
    }));
    ASSERT_TRUE(control::call("dom-5", remove_request()));
    EXPECT_TRUE(eventually([&] { return !host_.dm.exists("dmu-5-51712+base-0.0"); }));
}

TEST_F(Crypt, WhatAKilledMapperWasMakingGoesWithItsSuccessor) {
    KernelAccess kernel = access();
    control::DiskState state;
    state.instance = "dom-5";
    state.name = "dmu-5-51712";
    state.key = "fd00-1";
    state.uuid = "DMU-fd00-1";
    state.spec = make("qcow2", "luks");
    state.writable = true;
    state.on_full = "wait";
    state.files = {{0, 0, place_.path("disk"), 0, false, true}};
    ASSERT_TRUE(control::write_state(state));
    auto devices = host_.dm.connect();
    for (const auto& device : control::crypt_devices(state))
        ASSERT_TRUE(devices->create(device.name, device.uuid, {8, "zero", "x", false}));
    TestMapper successor(host_, "dom-5", &kernel);
    EXPECT_TRUE(eventually([&] { return place_.states().empty(); }));
    EXPECT_FALSE(host_.dm.exists("dmu-5-51712+base-0.0"));
    EXPECT_FALSE(host_.dm.exists("dmu-5-51712+crypt-0.0"));
}

// ------------------------------------------------ first writes of legacy AES ---

class Aes : public Crypt {
protected:
    KernelAccess faulty_access() {
        KernelAccess access = this->access();
        access.wrap = [faults = faults_](std::unique_ptr<BlockFile> file) {
            return std::make_unique<FaultableFile>(std::move(file), faults);
        };
        return access;
    }
    FakeTarget& disk() { return host_.kernel.target(key()); }
    FakeTarget& base() { return host_.kernel.target(key() + "+base-0.0"); }
    int write(std::uint64_t sector, const Bytes& bytes) {
        auto request = disk().write(sector, bytes);
        return request->wait() ? request->error() : -1;
    }
    // As dm-crypt does.
    Bytes read_below(std::uint64_t sector, std::uint64_t length) {
        auto request = base().read(sector, length);
        EXPECT_TRUE(request->wait());
        EXPECT_EQ(request->error(), 0);
        Bytes bytes = request->data();
        const crypto::Secret password(std::as_bytes(std::span(passphrase)));
        auto cipher = crypto::make_legacy_cipher(password);
        EXPECT_TRUE(cipher && (*cipher)->decrypt(sector * 512, bytes));
        return bytes;
    }

    Bytes read_file(const std::string& name) const {
        auto file = open_file(place_.path(name), {});
        Bytes bytes(file ? *(*file)->size() : 0);
        EXPECT_TRUE(file && (*file)->read(0, bytes));
        return bytes;
    }
    void expect_disk(const Bytes& image, const Bytes& content, std::size_t step) {
        std::filesystem::remove(place_.path("crashed"));
        place_.raw("crashed", image);
        auto spec = parse_spec("qcow2;key-file=" + place_.path("key") + ":" + place_.path("crashed"));
        auto chain = Chain::open(*spec, false, {});
        ASSERT_TRUE(chain) << "step " << step << ": " << chain.error().message;
        Bytes bytes(size);
        ASSERT_TRUE((*chain)->read({0}, bytes)) << "step " << step;
        EXPECT_TRUE(bytes == content) << "step " << step;
    }

    std::shared_ptr<Faults> faults_ = std::make_shared<Faults>();
};

TEST_F(Aes, AFirstWriteFindsItsWholeGrainOnDisk) {
    const Bytes below = pattern(size, 3);
    const auto spec = make("qcow2", "aes", "disk", place_.raw("base", below));
    KernelAccess kernel = access();
    TestMapper mapper(host_, "dom-5", &kernel);
    ASSERT_TRUE(add(spec).at("ok").get<bool>());
    ASSERT_EQ(write(5, pattern(512, 9)), 0);
    // The stand-in of the crypt device has the guest's write; the file what the disk held.
    EXPECT_EQ(read_below(0, 128), Bytes(below.begin(), below.begin() + 65536));
    const auto map = disk().map();
    ASSERT_FALSE(map.empty());
    EXPECT_EQ(map[0].kind, static_cast<unsigned>(DMU_KIND_LINEAR));
    EXPECT_EQ(map[0].length, 128u);
    EXPECT_EQ(map[0].physical, map[0].start);
    EXPECT_TRUE(disk().log().empty()) << "nothing that is not durable";
    auto image = Chain::open(*parse_spec(spec), false, {});
    ASSERT_TRUE(image) << image.error().message;
    const auto mappings = (*image)->look_up({{0}, 65536});
    ASSERT_TRUE(mappings);
    EXPECT_EQ(mappings->front().layer, 0u) << "the mapping is in the image before the write has ended";
    EXPECT_TRUE(disk().refusals().empty());
    EXPECT_TRUE(base().refusals().empty());
}

TEST_F(Aes, ARequestOfManyGrains) {
    const auto spec = make("qcow2", "aes");
    KernelAccess kernel = access();
    TestMapper mapper(host_, "dom-5", &kernel);
    ASSERT_TRUE(add(spec).at("ok").get<bool>());
    ASSERT_EQ(write(100, pattern(3 << 20, 9)), 0);
    EXPECT_EQ(read_below(0, 6272), Bytes(6272 * 512)) << "zeros, encrypted";
    ASSERT_EQ(write(16383, pattern(512, 1)), 0);
    auto read = disk().read(100, 6144);
    ASSERT_TRUE(read->wait());
    EXPECT_EQ(read->data(), pattern(3 << 20, 9));
}

TEST_F(Aes, WhatCantBeCommittedIsNotWrittenTo) {
    const auto spec = make("qcow2", "aes");
    KernelAccess kernel = faulty_access();
    TestMapper mapper(host_, "dom-5", &kernel);
    ASSERT_TRUE(add(spec).at("ok").get<bool>());
    ASSERT_EQ(write(1024, pattern(512, 1)), 0);
    faults_->broken_syncs = true;
    EXPECT_EQ(write(5, pattern(512, 9)), EIO);
    EXPECT_EQ(write(5, pattern(512, 9)), EIO);
    faults_->broken_syncs = false;
    EXPECT_TRUE(eventually([&] { return write(5, pattern(512, 9)) == 0; }));
    auto read = disk().read(5, 1);
    ASSERT_TRUE(read->wait());
    EXPECT_EQ(read->data(), pattern(512, 9));
    EXPECT_EQ(read_below(0, 8), Bytes(4096));
    EXPECT_TRUE(disk().refusals().empty());
}

TEST_F(Aes, WhatTheBaseForgetsItIsToldAgain) {
    const auto spec = make("qcow2", "aes");
    KernelAccess kernel = access();
    TestMapper mapper(host_, "dom-5", &kernel);
    ASSERT_TRUE(add(spec).at("ok").get<bool>());
    constexpr unsigned clusters = size / 65536;
    for (unsigned i = clusters; i-- > 0;) ASSERT_EQ(write(i * 128, pattern(512, i)), 0);
    base().shrink();
    ASSERT_TRUE(base().map().empty());
    const auto before = base().state().misses;
    for (unsigned i = 0; i < clusters; ++i) EXPECT_EQ(read_below(i * 128, 128), Bytes(65536)) << i;
    EXPECT_EQ(base().state().misses - before, 1u);
    EXPECT_TRUE(base().refusals().empty());
}

// The guest's writes go to the stand-in of the crypt device: whatever the file holds at any
// moment must read as the backing file does, never as what was not encrypted or not written.
TEST_F(Aes, AHostThatDiesFindsNoGarbage) {
    const Bytes below = pattern(size, 3);
    const auto spec = make("qcow2", "aes", "disk", place_.raw("base", below));
    auto recording = std::make_shared<Recording>(read_file("disk"));
    KernelAccess kernel = access();
    kernel.wrap = [recording](std::unique_ptr<BlockFile> file) {
        return std::make_unique<RecordingFile>(std::move(file), recording);
    };
    {
        TestMapper mapper(host_, "dom-5", &kernel);
        ASSERT_TRUE(add(spec).at("ok").get<bool>());
        for (const std::uint64_t sector : {5, 1000, 9000}) ASSERT_EQ(write(sector, pattern(512, 9)), 0);
        ASSERT_EQ(write(12000, pattern(1 << 20, 9)), 0);
        ASSERT_TRUE(control::call("dom-5", remove_request()));
    }
    std::mt19937_64 random(7);
    ASSERT_GT(recording->size(), 10u);
    for (std::size_t count = 0; count <= recording->size(); ++count) {
        expect_disk(recording->replay(count), below, count);
        expect_disk(recording->replay_crashed(count, random), below, count);
    }
}

TEST_F(Aes, ASuccessorGoesOn) {
    const auto spec = make("qcow", "");
    KernelAccess kernel = access();
    {
        TestMapper mapper(host_, "dom-5", &kernel);
        ASSERT_TRUE(add(spec).at("ok").get<bool>());
        ASSERT_EQ(write(5, pattern(512, 9)), 0);
    }
    auto waiting = disk().write(4096, pattern(512, 2));
    auto again = disk().write(6, pattern(512, 3));
    TestMapper successor(host_, "dom-5", &kernel);
    ASSERT_TRUE(waiting->wait());
    EXPECT_EQ(waiting->error(), 0);
    ASSERT_TRUE(again->wait());
    EXPECT_EQ(again->error(), 0);
    EXPECT_EQ(read_below(4096, 8), Bytes(4096));
}

}  // namespace
}  // namespace dmu::test
