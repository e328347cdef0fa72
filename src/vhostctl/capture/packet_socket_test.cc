// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "kernel-abi/kernel.h"
#include "kernel-abi/packet_socket.h"
#include "kernel-abi/system_error.h"
#include "src/vhostctl/capture/recording.h"
#include "src/vhostctl/capture/source.h"
#include "vhost/host/link.h"
#include "vhost/host/network_namespace_fixture.h"
#include "vhost/host/tap.h"

namespace vhost::ctl {
namespace {

// An ARP request that asks for nothing anybody has, 60 bytes; `last` tells one from another.
std::string Frame(char last) {
  std::string frame("\xff\xff\xff\xff\xff\xff\x02\0\0\0\0\1\x08\x06", 14);
  frame += std::string("\0\1\x08\0\6\4\0\1\x02\0\0\0\0\1\xc0\0\2\1\0\0\0\0\0\0\xc0\0\2\2", 28);
  frame.resize(59, '\0');
  return frame + last;
}

class CaptureTapTest : public NetworkNamespaceTest {
 protected:
  void SetUp() override {
    NetworkNamespaceTest::SetUp();
    if (IsSkipped()) return;
    auto tap = Tap::Create(kernel_abi::LinuxKernel(), {.name = "tapcapture"});
    ASSERT_TRUE(tap.ok()) << tap.status();
    tap_ = *std::move(tap);
    ASSERT_TRUE(Links::Open()->SetUp("tapcapture", true).ok());
  }
  std::unique_ptr<CaptureSource> Capture(const CaptureWanted& wanted = {}) {
    auto source = CaptureTap("tapcapture", getpid(), wanted);
    EXPECT_TRUE(source.ok()) << source.status();
    return source.ok() ? *std::move(source) : nullptr;
  }
  // As the guest sends it: behind virtio's header.
  void SendFromGuest(const std::string& frame) {
    const std::string packet = std::string(12, '\0') + frame;
    ASSERT_TRUE(tap_->SetHeaderBytes(12).ok());
    ASSERT_EQ(write(tap_->fd(0), packet.data(), packet.size()),
              static_cast<ssize_t>(packet.size()));
  }
  // The ARP packets among what has come; the host says things of its own on a new interface.
  static std::vector<PcapngPacket> Arps(CaptureSource& source) {
    std::vector<PcapngPacket> packets;
    pollfd ready{source.fd(), POLLIN, 0};
    while (packets.empty() && poll(&ready, 1, 60'000) == 1) {
      EXPECT_TRUE(source.Read(&packets).ok());
      std::erase_if(packets, [](const PcapngPacket& packet) {
        return packet.bytes.size() < 14 || packet.bytes.substr(12, 2) != "\x08\x06";
      });
    }
    return packets;
  }

  std::unique_ptr<Tap> tap_;
};

TEST_F(CaptureTapTest, SeesWhatTheGuestSends) {
  const auto source = Capture();
  ASSERT_NE(source, nullptr);
  EXPECT_EQ(source->Describe().name, "tapcapture");
  SendFromGuest(Frame('a'));
  const std::vector<PcapngPacket> packets = Arps(*source);
  ASSERT_EQ(packets.size(), 1u);
  EXPECT_EQ(packets[0].bytes, Frame('a'));
  EXPECT_EQ(packets[0].length, 60u);
  EXPECT_FALSE(packets[0].to_guest);
  EXPECT_GT(packets[0].time_ns, 1'600'000'000'000'000'000);
  EXPECT_EQ(source->Dropped(), 0u);
}

TEST_F(CaptureTapTest, KeepsWhatIsWantedOfAFrame) {
  const auto source = Capture({.snaplen = 20});
  ASSERT_NE(source, nullptr);
  SendFromGuest(Frame('b'));
  const std::vector<PcapngPacket> packets = Arps(*source);
  ASSERT_EQ(packets.size(), 1u);
  EXPECT_EQ(packets[0].bytes, Frame('b').substr(0, 20));
  EXPECT_EQ(packets[0].length, 60u);
}

TEST_F(CaptureTapTest, SeesOnlyTheQueueThatIsWanted) {
  const auto both = Capture();
  const auto transmit = Capture({.queue = 1});
  const auto receive = Capture({.queue = 0});
  const auto next_pair = Capture({.queue = 3});
  ASSERT_TRUE(both && transmit && receive && next_pair);
  SendFromGuest(Frame('c'));
  EXPECT_EQ(Arps(*both).size(), 1u);
  EXPECT_EQ(Arps(*transmit).size(), 1u);
  for (CaptureSource* other : {receive.get(), next_pair.get()}) {
    std::vector<PcapngPacket> packets;
    EXPECT_TRUE(other->Read(&packets).ok());
    for (const PcapngPacket& packet : packets) EXPECT_NE(packet.bytes, Frame('c'));
  }
}

TEST_F(CaptureTapTest, AVlanTagStaysInItsFrame) {
  const auto source = Capture();
  ASSERT_NE(source, nullptr);
  std::string tagged = Frame('d');
  tagged.insert(12, std::string("\x81\0\0\x05", 4));
  SendFromGuest(tagged);
  std::vector<PcapngPacket> packets;
  pollfd ready{source->fd(), POLLIN, 0};
  auto is_ours = [&](const PcapngPacket& packet) { return packet.bytes == tagged; };
  while (std::none_of(packets.begin(), packets.end(), is_ours) && poll(&ready, 1, 60'000) == 1) {
    ASSERT_TRUE(source->Read(&packets).ok());
  }
  EXPECT_EQ(std::count_if(packets.begin(), packets.end(), is_ours), 1);
}

TEST_F(CaptureTapTest, AnInterfaceThatIsNotThereIsNamed) {
  const auto source = CaptureTap("nosuchtap", getpid(), {});
  ASSERT_FALSE(source.ok());
  EXPECT_EQ(kernel_abi::GetErrno(source.status()), ENODEV);
  EXPECT_NE(source.status().message().find("network namespace of process"), std::string::npos)
      << source.status();
}

TEST_F(CaptureTapTest, EndsWithItsInterface) {
  std::vector<std::unique_ptr<CaptureSource>> sources;
  sources.push_back(Capture());
  ASSERT_NE(sources[0], nullptr);
  tap_.reset();
  std::string text;
  const Recorded recorded = Record(std::move(sources), {.write = [&](absl::string_view more) {
                                     text.append(more.data(), more.size());
                                     return true;
                                   }});
  EXPECT_EQ(kernel_abi::GetErrno(recorded.status), ENETDOWN) << recorded.status;
  EXPECT_EQ(text.substr(0, 4), "\x0a\x0d\x0d\x0a");
}

// ---- A recording -------------------------------------------------------------------------------

// Gives one packet at each look, without end.
class Endless final : public CaptureSource {
 public:
  PcapngInterface Describe() const override { return {.name = "endless"}; }
  int fd() const override { return -1; }
  int wait_ms() const override { return 0; }
  absl::Status Read(std::vector<PcapngPacket>* packets) override {
    packets->push_back({.length = 1, .bytes = "x"});
    return absl::OkStatus();
  }
  uint64_t Dropped() override { return 2; }
};

TEST(RecordTest, EndsAfterSoManyPackets) {
  std::vector<std::unique_ptr<CaptureSource>> sources;
  sources.push_back(std::make_unique<Endless>());
  sources.push_back(std::make_unique<Endless>());
  std::string text;
  const Recorded recorded =
      Record(std::move(sources), {.count = 5, .write = [&](absl::string_view more) {
                                    text.append(more.data(), more.size());
                                    return true;
                                  }});
  EXPECT_TRUE(recorded.status.ok());
  EXPECT_EQ(recorded.packets, 5u);
  EXPECT_EQ(recorded.dropped, 4u);
  // Whole blocks: a section, two interfaces, the packets, two counts.
  size_t blocks = 0;
  for (size_t at = 0; at < text.size(); ++blocks) {
    uint32_t length;
    memcpy(&length, text.data() + at + 4, sizeof(length));
    ASSERT_GE(length, 12u);
    at += length;
    ASSERT_LE(at, text.size());
  }
  EXPECT_EQ(blocks, 10u);
}

TEST(RecordTest, EndsWhenNobodyTakesIt) {
  std::vector<std::unique_ptr<CaptureSource>> sources;
  sources.push_back(std::make_unique<Endless>());
  int writes = 0;
  const Recorded recorded =
      Record(std::move(sources), {.write = [&](absl::string_view) { return ++writes < 3; }});
  EXPECT_EQ(recorded.packets, 2u);
}

TEST(RecordTest, EndsOnASignalAndKeepsIt) {
  std::vector<std::unique_ptr<CaptureSource>> sources;
  sources.push_back(std::make_unique<Endless>());
  const Recorded recorded = Record(std::move(sources), {.write = [&](absl::string_view) {
                                     raise(SIGINT);
                                     return true;
                                   }});
  EXPECT_TRUE(recorded.status.ok());
  EXPECT_GE(recorded.packets, 1u);
}

TEST(RecordTest, EndsWithTheProcess) {
  const pid_t child = fork();
  if (child == 0) _exit(0);
  std::vector<std::unique_ptr<CaptureSource>> sources;
  sources.push_back(std::make_unique<Endless>());
  const Recorded recorded =
      Record(std::move(sources), {.pid = child, .write = [](absl::string_view) { return true; }});
  EXPECT_TRUE(recorded.process_ended);
  int status;
  waitpid(child, &status, 0);
}

}  // namespace
}  // namespace vhost::ctl
