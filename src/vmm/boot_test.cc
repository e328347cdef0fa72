// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The program as a whole, with guests of a few instructions in the place of a Linux kernel: how a
// guest ends, and what the program then says. Real kernels boot in tests/vm.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "vhost/transport/register_map.h"

namespace vmm {
namespace {

using ::testing::HasSubstr;
using Code = std::vector<uint8_t>;

constexpr int kLimitMs = 60'000;  // software emulation of the host included

// 64-bit code, put together by hand.
Code operator+(Code a, const Code& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}
Code OutByte(uint16_t port, uint8_t value) {  // mov dx, port; mov al, value; out dx, al
  return {0x66,  0xBA, static_cast<uint8_t>(port), static_cast<uint8_t>(port >> 8), 0xB0,
          value, 0xEE};
}
Code Print(const std::string& text) {
  Code code;
  for (char c : text) code = code + OutByte(0x3F8, static_cast<uint8_t>(c));
  return code;
}
Code PowerOff() {  // mov dx, 0x604; mov ax, SLP_EN | S5; out dx, ax; hlt
  return {0x66, 0xBA, 0x04, 0x06, 0x66, 0xB8, 0x00, 0x34, 0x66, 0xEF, 0xF4};
}
Code ResetByPort() { return OutByte(0xCF9, 6) + Code{0xF4}; }
Code TripleFault() {  // lidt [an empty table on the stack]; int3
  return {0x6A, 0x00, 0x6A, 0x00, 0x0F, 0x01, 0x1C, 0x24, 0xCC};
}
Code Spin() { return {0xEB, 0xFE}; }
// Does `first` when the guest is here for the first time, `later` after a reset, which leaves RAM
// as it is: cmp byte [0x80000], 1; je later; mov byte [0x80000], 1; first.
Code FirstAndLater(const Code& first, const Code& later) {
  const auto skip = static_cast<uint32_t>(8 + first.size());
  return Code{0x80,
              0x3C,
              0x25,
              0x00,
              0x00,
              0x08,
              0x00,
              0x01,
              0x0F,
              0x84,
              static_cast<uint8_t>(skip),
              static_cast<uint8_t>(skip >> 8),
              0,
              0,
              0xC6,
              0x04,
              0x25,
              0x00,
              0x00,
              0x08,
              0x00,
              0x01} +
         first + later;
}

// A bzImage with `code` at its 64-bit entry point.
std::string Image(const Code& code) {
  std::vector<std::byte> image(1024 + 0x200 + code.size() + 64);
  const auto put = [&](size_t offset, size_t size, uint64_t value) {
    vhost::StoreLittleEndian(std::span(image).subspan(offset, size), value);
  };
  put(0x1F1, 1, 1);
  put(0x1FE, 2, 0xAA55);
  put(0x200, 2, 0x6AEB);
  put(0x202, 4, 0x5372'6448);
  put(0x206, 2, 0x020F);
  put(0x211, 1, 1);
  put(0x22C, 4, 0x7FFF'FFFF);
  put(0x236, 2, 1);
  put(0x238, 4, 2047);
  put(0x258, 8, 0x100'0000);
  put(0x260, 4, 0x1000);
  for (size_t i = 0; i < code.size(); ++i) image[1024 + 0x200 + i] = std::byte{code[i]};
  return {reinterpret_cast<const char*>(image.data()), image.size()};
}

bool CanRunGuests() {
  if (access("/dev/kvm", R_OK | W_OK) != 0) return false;
  std::stringstream cpus;
  cpus << std::ifstream("/proc/cpuinfo").rdbuf();
  // A KVM without these runs no 64-bit guest.
  return cpus.str().find(" svm") != std::string::npos ||
         cpus.str().find(" vmx") != std::string::npos;
}

class BootTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (!CanRunGuests()) GTEST_SKIP() << "skipped: no KVM that runs 64-bit guests";
    ASSERT_NE(mkdtemp(folder_.data()), nullptr);
  }
  void TearDown() override {
    if (child_ > 0) {
      kill(child_, SIGKILL);
      waitpid(child_, nullptr, 0);
    }
    for (const char* name : {"/kernel", "/out", "/err"}) unlink((folder_ + name).c_str());
    rmdir(folder_.c_str());
  }

  void Start(const Code& code, std::vector<std::string> more = {}) {
    std::ofstream(folder_ + "/kernel", std::ios::binary) << Image(code);
    std::vector<std::string> words = {VMM_PROGRAM,        "--kernel", folder_ + "/kernel",
                                      "--control-socket", "none",     "--irqchip",
                                      GetParam(),         "--memory", "64M"};
    words.insert(words.end(), more.begin(), more.end());
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    child_ = fork();
    ASSERT_GE(child_, 0);
    if (child_ == 0) {
      const auto redirect = [](const std::string& path, int flags, int to) {
        dup2(open(path.c_str(), flags, 0600), to);
      };
      redirect("/dev/null", O_RDONLY, 0);
      redirect(folder_ + "/out", O_WRONLY | O_CREAT, 1);
      redirect(folder_ + "/err", O_WRONLY | O_CREAT, 2);
      execv(VMM_PROGRAM, arguments.data());
      _exit(127);
    }
  }
  // The exit code; -1 if it did not end in time or died of a signal.
  int Wait() {
    for (int waited_ms = 0; waited_ms < kLimitMs; waited_ms += 5) {
      int status = 0;
      if (waitpid(child_, &status, WNOHANG) == child_) {
        child_ = -1;
        return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
      }
      poll(nullptr, 0, 5);
    }
    return -1;
  }
  bool WaitForOutput(const std::string& text) {
    for (int waited_ms = 0; waited_ms < kLimitMs; waited_ms += 5) {
      if (Output().find(text) != std::string::npos) return true;
      poll(nullptr, 0, 5);
    }
    return false;
  }
  std::string Read(const std::string& name) const {
    std::stringstream text;
    text << std::ifstream(folder_ + name).rdbuf();
    return text.str();
  }
  std::string Output() const { return Read("/out"); }
  std::string Errors() const { return Read("/err"); }

  std::string folder_ = "/tmp/vmm-boot-XXXXXX";
  pid_t child_ = -1;
};

TEST_P(BootTest, PoweringOffIsSuccessAndSilent) {
  Start(Print("hello") + PowerOff());
  EXPECT_EQ(Wait(), 0);
  EXPECT_EQ(Output(), "hello");
  EXPECT_EQ(Errors(), "");
}

TEST_P(BootTest, AResetStartsTheGuestAgainInTheSameProcess) {
  Start(FirstAndLater(Print("one") + ResetByPort(), Print("two") + PowerOff()), {"--cpus", "2"});
  EXPECT_EQ(Wait(), 0);
  EXPECT_EQ(Output(), "onetwo");
}

TEST_P(BootTest, TheKeyboardControllerResetsToo) {
  Start(FirstAndLater(OutByte(0x64, 0xFE) + Spin(), Print("back") + PowerOff()));
  EXPECT_EQ(Wait(), 0);
  EXPECT_EQ(Output(), "back");
}

TEST_P(BootTest, WithNoRebootAResetEnds) {
  Start(FirstAndLater(ResetByPort(), Print("never")), {"--no-reboot"});
  EXPECT_EQ(Wait(), 0);
  EXPECT_EQ(Output(), "");
}

TEST_P(BootTest, ATripleFaultIsAFailureThatSaysWhere) {
  Start(Print("bye") + TripleFault());
  EXPECT_EQ(Wait(), 1);
  EXPECT_EQ(Output(), "bye");
  EXPECT_THAT(Errors(), HasSubstr("vmm: vCPU 0: triple fault (KVM_EXIT_SHUTDOWN) at rip="));
}

TEST_P(BootTest, ASignalStopsAGuestThatSpins) {
  for (int signal : {SIGTERM, SIGINT}) {
    Start(Print("spinning") + Spin(), {"--cpus", "2"});
    ASSERT_TRUE(WaitForOutput("spinning"));
    kill(child_, signal);
    EXPECT_EQ(Wait(), 0) << Errors();
    EXPECT_EQ(Errors(), "");
    unlink((folder_ + "/out").c_str());
  }
}

TEST_P(BootTest, ASignalStopsAGuestThatResetsForever) {
  Start(Print("again") + ResetByPort());
  ASSERT_TRUE(WaitForOutput("againagain"));
  kill(child_, SIGTERM);
  EXPECT_EQ(Wait(), 0);
}

TEST_P(BootTest, VerboseTellsWhatHappened) {
  Start(PowerOff(), {"--verbose"});
  EXPECT_EQ(Wait(), 0);
  EXPECT_THAT(Errors(), HasSubstr("vmm: the guest ended: power-off"));
  EXPECT_THAT(Errors(), HasSubstr("vmm: vCPU 0: exits for ports 1, memory 0"));
}

INSTANTIATE_TEST_SUITE_P(Irqchips, BootTest, testing::Values("full", "split"),
                         [](const auto& chip) { return std::string(chip.param); });

}  // namespace
}  // namespace vmm
