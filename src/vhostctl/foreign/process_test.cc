// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Foreign processes in a /proc of the test's own.
#include "src/vhostctl/foreign/process.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "src/vhostctl/foreign/report.h"

namespace vhost::ctl {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class ForeignTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/vhostctl-proc-XXXXXX";
    proc_ = mkdtemp(name);
    Link("self/ns/net", "net:[1]");
  }
  void TearDown() override { std::filesystem::remove_all(proc_); }

  void Link(const std::string& path, const std::string& target) const {
    std::filesystem::create_directories(std::filesystem::path(proc_ + "/" + path).parent_path());
    ASSERT_EQ(symlink(target.c_str(), (proc_ + "/" + path).c_str()), 0);
  }
  void File(const std::string& path, const std::string& text) const {
    std::filesystem::create_directories(std::filesystem::path(proc_ + "/" + path).parent_path());
    std::ofstream(proc_ + "/" + path) << text;
  }
  void Thread(int pid, int tid, const std::string& comm) const {
    const std::string folder = absl::StrCat(pid, "/task/", tid);
    File(folder + "/comm", comm + "\n");
    File(folder + "/schedstat", "1500000000 2 3\n");
    File(folder + "/status", "Name:\tx\nCpus_allowed_list:\t0-1\n");
  }
  // A QEMU with one NIC and a socket device.
  void Qemu(int pid, const std::string& command_line) const {
    const std::string folder = absl::StrCat(pid);
    File(folder + "/comm", "qemu-system-x86\n");
    File(folder + "/cmdline", command_line);
    File(folder + "/status", "Name:\tqemu\nUid:\t0\t0\t0\t0\n");
    File(folder + "/cgroup", "0::/machine/web\n");
    Link(folder + "/ns/net", "net:[1]");
    Link(folder + "/fd/9", "anon_inode:kvm-vcpu:0");
    Link(folder + "/fd/20", "/dev/net/tun");
    File(folder + "/fdinfo/20", "pos:\t0\niff:\ttap7\n");
    Link(folder + "/fd/21", "/dev/vhost-net");
    Link(folder + "/fd/22", "/dev/vhost-vsock");
    Link(folder + "/fd/30", "anon_inode:[eventfd]");
    File(folder + "/fdinfo/30", "pos:\t0\neventfd-count:               1f\neventfd-id: 4\n");
    Thread(pid, pid, "qemu-system-x86");
  }

  std::string proc_;
};

TEST_F(ForeignTest, TellsWhatProcTells) {
  constexpr char kCommandLine[] =
      "qemu\0-name\0guest=web,debug-threads=on\0-device\0vhost-vsock-pci,guest-cid=42";
  Qemu(100, std::string(kCommandLine, sizeof(kCommandLine)));
  Thread(100, 104, "vhost-100");
  File("200/comm", "bash\n");
  Link("200/fd/0", "/dev/tty");
  const std::vector<ForeignProcess> found = FindForeign({}, proc_);
  ASSERT_THAT(found, SizeIs(1));
  const ForeignProcess& qemu = found[0];
  EXPECT_EQ(qemu.vm, "web");
  EXPECT_EQ(qemu.user, "root");
  EXPECT_EQ(qemu.cgroup, "/machine/web");
  EXPECT_TRUE(qemu.network_namespace_is_ours);
  EXPECT_EQ(qemu.eventfd_count, 31u);
  EXPECT_EQ(qemu.vcpus, 1);
  ASSERT_THAT(qemu.devices, SizeIs(2));
  EXPECT_EQ(qemu.devices[0].type, "net");
  EXPECT_EQ(PeerOf(qemu, qemu.devices[0]), "tap7");
  ASSERT_THAT(qemu.workers, SizeIs(1));
  EXPECT_EQ(qemu.workers[0].cpu_time_ns, 1500000000u);
  EXPECT_EQ(qemu.workers[0].affinity, "0-1");
  EXPECT_THAT(
      RowsOf(qemu),
      ElementsAre(
          ElementsAre("web", "100", "fd21", "net", "kernel", "?", "?/2", "tap7", "104", "?"),
          ElementsAre("web", "100", "fd22", "vsock", "kernel", "?", "?/2", "?", "104", "?")));
  EXPECT_THAT(
      TextOf(qemu, qemu.devices[1]),
      HasSubstr("unknown: the kernel has no request that tells it; its command line says 42"));
  EXPECT_THAT(JsonOf(qemu),
              HasSubstr("\"ring positions\":\"the kernel tells it to the owner alone"));
  EXPECT_THAT(FindForeign({100}, proc_), IsEmpty());
}

TEST_F(ForeignTest, DoesNotGuessWhichOfSeveralIsWhose) {
  Qemu(100, "");
  Link("100/fd/40", "/dev/vhost-net");
  Link("100/fd/41", "/dev/net/tun");
  File("100/fdinfo/41", "iff:\ttap8\n");
  Thread(100, 104, "vhost-100");
  Thread(100, 105, "vhost-100");
  const std::vector<ForeignProcess> found = FindForeign({}, proc_);
  ASSERT_THAT(found, SizeIs(1));
  EXPECT_EQ(found[0].vm, "qemu-system-x86");
  EXPECT_EQ(PeerOf(found[0], found[0].devices[0]), "one of tap7,tap8");
  EXPECT_EQ(WorkersOf(found[0]), "one of 104,105");
}

TEST_F(ForeignTest, FindsWorkersThatAreTheKernels) {
  Qemu(100, "");
  Thread(100, 101, "CPU 0/KVM");
  File("77/comm", "vhost-101\n");
  File("77/status", "Name:\tvhost-101\nPPid:\t2\n");
  // Anybody may call itself so.
  File("78/comm", "vhost-100\n");
  File("78/status", "Name:\tvhost-100\nPPid:\t1\n");
  const std::vector<ForeignProcess> found = FindForeign({}, proc_);
  ASSERT_THAT(found, SizeIs(1));
  EXPECT_EQ(WorkersOf(found[0]), "77");
}

TEST_F(ForeignTest, SaysWhyNothingIsKnownOfAnotherUsersProcess) {
  // A folder that is none: it cannot be read, whoever runs the test.
  File("100/fd", "");
  File("100/comm", "qemu\n");
  Thread(100, 104, "vhost-100");
  File("101/fd", "");
  File("101/comm", "other\n");
  const std::vector<ForeignProcess> found = FindForeign({}, proc_);
  ASSERT_THAT(found, SizeIs(1));
  EXPECT_THAT(found[0].fds_unknown, HasSubstr("/100/fd: ENOTDIR"));
  EXPECT_THAT(RowsOf(found[0]), ElementsAre(ElementsAre("qemu", "100", "?", "?", "kernel", "?", "?",
                                                        "?", "104", "?")));
  EXPECT_THAT(JsonOf(found[0]), HasSubstr("\"devices\":\""));
}

TEST_F(ForeignTest, BelievesNoFileForItsPath) {
  File("made-by-the-process", "");
  Link("file", proc_ + "/made-by-the-process");
  Link("null", "/dev/null");
  for (const char* node : {"/dev/vhost-net", "/dev/vhost-vsock", "/dev/vhost-vdpa-0"}) {
    EXPECT_FALSE(IsNode(proc_ + "/file", node)) << node;
  }
  EXPECT_FALSE(IsNode(proc_ + "/null", "/dev/vhost-net"));
}

TEST_F(ForeignTest, CutsWhatACommandLineSays) {
  const std::string name(1 << 20, 'x');
  Qemu(100,
       std::string("qemu\0-name\0", 11) + name + std::string("\0-device\0guest-cid=", 19) + name);
  const auto found = FindForeign({}, proc_);
  ASSERT_THAT(found, SizeIs(1));
  EXPECT_THAT(found[0].vm, SizeIs(64));
  EXPECT_THAT(found[0].claimed_cids, ElementsAre(SizeIs(64)));
}

TEST_F(ForeignTest, TheRealProcHasNoSurprises) {
  for (const ForeignProcess& process : FindForeign({})) EXPECT_GT(process.pid, 0);
}

}  // namespace
}  // namespace vhost::ctl
