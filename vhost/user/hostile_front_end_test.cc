// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Front ends that lie, send half of what they should, or go at the worst moment. Whatever they do,
// the server serves the next one, no fd stays open, and nothing runs any more.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <string>
#include <vector>

#include "vhost/user/server_fixture.h"

namespace vhost::user {
namespace {

class HostileFrontEndTest : public ServerFixture {
 protected:
  void SetUp() override {
    ServerFixture::SetUp();
    // Once, so that what is made for good is there before fds are counted.
    ExpectServesTheNext();
    fds_before_ = OpenFds();
  }
  void TearDown() override {
    loop_.Pump();
    EXPECT_EQ(OpenFds(), fds_before_);
    ExpectServesTheNext();
    EXPECT_FALSE(device_.backend().Report().running);
  }

  void ExpectServesTheNext() {
    auto front_end = ConnectReady();
    Ring ring(ram_, {.size = 16});
    ASSERT_TRUE(front_end->SetUp(ram_, 0, ring) && front_end->Enable(0));
    EXPECT_TRUE(Echoes(*front_end, ring));
    front_end->Close();
  }
  // Sends bytes as they are, with fds.
  void SendRaw(const FrontEnd& front_end, std::span<const std::byte> bytes,
               const std::vector<int>& fds = {}) {
    std::vector<char> control(CMSG_SPACE(sizeof(int) * std::max<size_t>(fds.size(), 1)));
    iovec piece{.iov_base = const_cast<std::byte*>(bytes.data()), .iov_len = bytes.size()};
    msghdr out{};
    out.msg_iov = &piece;
    out.msg_iovlen = 1;
    if (!fds.empty()) {
      out.msg_control = control.data();
      out.msg_controllen = control.size();
      cmsghdr* part = CMSG_FIRSTHDR(&out);
      part->cmsg_level = SOL_SOCKET;
      part->cmsg_type = SCM_RIGHTS;
      part->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
      memcpy(CMSG_DATA(part), fds.data(), sizeof(int) * fds.size());
    }
    sendmsg(front_end.fd(), &out, MSG_NOSIGNAL | MSG_DONTWAIT);
    loop_.Pump();
  }
  static std::vector<std::byte> Bytes(const Message& message) {
    const Header header{.request = message.request,
                        .flags = message.flags,
                        .size = static_cast<uint32_t>(message.payload.size())};
    const auto head = std::as_bytes(std::span(&header, 1));
    std::vector<std::byte> bytes(head.begin(), head.end());
    bytes.insert(bytes.end(), message.payload.begin(), message.payload.end());
    return bytes;
  }
  // A message that a front end of good manners would send at some time, with fds.
  struct Sample {
    Message message;
    std::vector<int> fds;
  };
  std::vector<Sample> Samples(Ring& ring) {
    const MemRegion region = FrontEnd::RegionOf(ram_);
    const int memfd = ram_.region().memfd;
    std::vector<Sample> all;
    const auto add = [&all](Message message, std::vector<int> fds = {}) {
      all.push_back({std::move(message), std::move(fds)});
    };
    add(MakeRequest(Request::kSetOwner));
    add(MakeRequest(Request::kGetFeatures));
    add(MakeRequest(Request::kGetProtocolFeatures));
    add(MakeRequest(Request::kSetProtocolFeatures, uint64_t{0x1'8208}));
    add(MakeRequest(Request::kSetFeatures, kVersion1Bit | kProtocolBit));
    add(MakeRequest(Request::kGetQueueNum));
    add(MakeRequest(Request::kGetMaxMemSlots));
    add(MakeMemTable({&region, 1}), {memfd});
    add(MakeRequest(Request::kSetVringNum, VringState{0, 16}));
    add(MakeRequest(Request::kSetVringBase, VringState{0, 0}));
    add(MakeRequest(Request::kSetVringAddr, FrontEnd::AddressOf(ram_, 0, ring.driver.setup())));
    add(MakeRequest(Request::kSetVringErr, uint64_t{0}), {ring.err.get()});
    add(MakeRequest(Request::kSetVringCall, uint64_t{0}), {ring.call.get()});
    add(MakeRequest(Request::kSetVringEnable, VringState{0, 1}));
    add(MakeRequest(Request::kSetVringKick, uint64_t{0}), {ring.kick.get()});
    add(MakeConfig(Request::kGetConfig, 0, 0, std::vector<std::byte>(8)));
    add(MakeConfig(Request::kSetConfig, 0, 0, std::vector<std::byte>(8)));
    add(MakeRequest(Request::kSetStatus, uint64_t{15}));
    add(MakeRequest(Request::kGetStatus));
    add(MakeRequest(Request::kGetVringBase, VringState{0, 0}));
    add(MakeRequest(Request::kResetDevice));
    return all;
  }

 private:
  int fds_before_ = 0;
};

TEST_F(HostileFrontEndTest, GoingInTheMiddleOfAnyMessageLeavesNothing) {
  Ring ring(ram_, {.size = 16});
  const std::vector<Sample> samples = Samples(ring);
  for (size_t last = 0; last < samples.size(); ++last) {
    const std::vector<std::byte> bytes = Bytes(samples[last].message);
    // In its header, behind it, in its payload, and after all of it.
    for (const size_t part :
         {size_t{1}, sizeof(Header), (sizeof(Header) + bytes.size()) / 2, bytes.size()}) {
      auto front_end = Connect();
      ring.kick.Signal();
      for (size_t i = 0; i < last; ++i) {
        SendRaw(*front_end, Bytes(samples[i].message), samples[i].fds);
      }
      EXPECT_FALSE(front_end->is_dropped())
          << RequestName(RequestSet::kFrontEnd, samples[last].message.request) << ": " << why_;
      SendRaw(*front_end, std::span(bytes).first(part), samples[last].fds);
      front_end->Close();
    }
  }
  EXPECT_EQ(disconnects_, connects_);
}

TEST_F(HostileFrontEndTest, AMessageMayComeByteForByte) {
  auto front_end = Connect();
  Ring ring(ram_, {.size = 16});
  for (const Sample& sample : Samples(ring)) {
    const std::vector<std::byte> bytes = Bytes(sample.message);
    SendRaw(*front_end, std::span(bytes).first(1), sample.fds);
    for (size_t i = 1; i < bytes.size(); ++i) SendRaw(*front_end, std::span(bytes).subspan(i, 1));
  }
  EXPECT_FALSE(front_end->is_dropped());
}

TEST_F(HostileFrontEndTest, WhatIsNoMessageEndsTheConnection) {
  const auto header = [](uint32_t request, uint32_t flags, uint32_t size) {
    return Header{.request = request, .flags = flags, .size = size};
  };
  const Header wrong[] = {header(0, kVersion, 0),
                          header(999, kVersion, 0),
                          header(1, 0, 0),
                          header(1, 3, 0),
                          header(1, kVersion | kFlagReply, 0),
                          header(1, kVersion | 0x10, 0),
                          header(1, kVersion, 8),
                          header(2, kVersion, 4),
                          header(2, kVersion, 0xffff'ffff),
                          header(5, kVersion, 0xffff'fff8),
                          header(5, kVersion, 4),
                          header(24, kVersion, 12 + 257)};
  for (const Header& bad : wrong) {
    auto front_end = Connect();
    SendRaw(*front_end, std::as_bytes(std::span(&bad, 1)));
    EXPECT_TRUE(front_end->is_dropped()) << bad.request << " " << bad.flags << " " << bad.size;
    EXPECT_FALSE(why_.ok());
  }
}

TEST_F(HostileFrontEndTest, FdsThatAreMissingOrTooManyAreClosedAndRefused) {
  Ring ring(ram_, {.size = 16});
  for (const Sample& sample : Samples(ring)) {
    for (const size_t count : {0, 1, 2, 33, 200}) {
      if (count == sample.fds.size()) continue;
      auto front_end = ConnectReady();
      SendRaw(*front_end, Bytes(sample.message), std::vector<int>(count, ring.err.get()));
      EXPECT_TRUE(front_end->is_dropped())
          << RequestName(RequestSet::kFrontEnd, sample.message.request) << " with " << count;
    }
  }
}

TEST_F(HostileFrontEndTest, LiesAreRefusedAndChangeNothing) {
  auto front_end = ConnectReady();
  Ring ring(ram_, {.size = 16});
  ASSERT_TRUE(front_end->SetUp(ram_, 0, ring) && front_end->Enable(0));
  ASSERT_TRUE(Echoes(*front_end, ring));
  const auto refused = [&](Request request, const auto& payload, std::vector<int> fds = {}) {
    EXPECT_FALSE(front_end->Ask(request, payload, fds))
        << RequestName(RequestSet::kFrontEnd, static_cast<uint32_t>(request));
    EXPECT_FALSE(front_end->is_dropped());
  };
  refused(Request::kSetFeatures, ~uint64_t{0});
  refused(Request::kSetFeatures, uint64_t{1} << 33);
  refused(Request::kSetProtocolFeatures, ~uint64_t{0});
  refused(Request::kSetVringNum, VringState{0, 0});
  refused(Request::kSetVringNum, VringState{0, 65536 + 16});
  refused(Request::kSetVringNum, VringState{3, 16});
  refused(Request::kSetVringNum, VringState{0xffff'ffff, 16});
  refused(Request::kSetVringBase, VringState{0, 0x1'0000});
  refused(Request::kSetVringEnable, VringState{0, 2});
  refused(Request::kSetVringEnable, VringState{3, 1});
  refused(Request::kSetVringKick, uint64_t{3}, {ring.kick.get()});
  refused(Request::kSetVringKick, uint64_t{0} | kVringFdNone);
  refused(Request::kSetVringCall, uint64_t{255}, {ring.kick.get()});
  refused(Request::kSetVringErr, uint64_t{3}, {ring.kick.get()});
  refused(Request::kSetStatus, uint64_t{256});
  refused(Request::kNetSetMtu, uint64_t{1500});
  refused(Request::kSendRarp, uint64_t{0});
  refused(Request::kIotlbMsg, std::array<uint64_t, 4>{});
  refused(Request::kSetVringEndian, VringState{0, 1});
  refused(Request::kVringKick, VringState{0, 0});
  refused(Request::kSetInflightFd, InflightDescription{}, {ring.err.get()});
  refused(Request::kGpuSetSocket, uint64_t{0}, {ring.err.get()});
  refused(Request::kSetBackendReqFd, uint64_t{0}, {ring.err.get()});
  VringAddr log = FrontEnd::AddressOf(ram_, 0, ring.driver.setup());
  log.flags = kVringFlagLog;
  refused(Request::kSetVringAddr, log);
  EXPECT_TRUE(Echoes(*front_end, ring));
}

TEST_F(HostileFrontEndTest, WhoWaitsForAnAnswerThatThereIsNoneOfIsDropped) {
  for (const Message& message :
       {MakeRequest(Request::kGetInflightFd, InflightDescription{}),
        MakeRequest(Request::kPostcopyAdvise), MakeRequest(Request::kPostcopyEnd),
        MakeRequest(Request::kCheckDeviceState), MakeRequest(Request::kGetMaxMemSlots),
        MakeRequest(Request::kGetStatus), MakeRequest(Request::kGetVringBase, VringState{3, 0})}) {
    auto front_end = Connect();
    front_end->Send(message);
    EXPECT_TRUE(front_end->is_dropped()) << message.request;
    EXPECT_FALSE(why_.ok());
  }
}

TEST_F(HostileFrontEndTest, LiesAboutMemoryAreRefused) {
  auto front_end = ConnectReady();
  const MemRegion good = FrontEnd::RegionOf(ram_);
  const int memfd = ram_.region().memfd;
  const auto refused = [&](auto change) {
    MemRegion region = good;
    change(region);
    EXPECT_FALSE(front_end->Ask(MakeMemTable({&region, 1}), {memfd}));
    EXPECT_FALSE(front_end->Ask(Request::kAddMemReg, SingleMemRegion{0, region}, {memfd}));
    EXPECT_FALSE(front_end->is_dropped());
  };
  refused([](MemRegion& region) { region.size = 0; });
  refused([](MemRegion& region) { region.size += 4096; });
  refused([](MemRegion& region) { region.size = ~uint64_t{0}; });
  refused([](MemRegion& region) { region.mmap_offset = 4096; });
  refused([](MemRegion& region) { region.mmap_offset = ~uint64_t{0} << 12; });
  refused([](MemRegion& region) { region.guest_address = ~uint64_t{0} << 13; });
  refused([](MemRegion& region) { region.user_address = ~uint64_t{0}; });
  const MemRegion twice[] = {good, good};
  EXPECT_FALSE(front_end->Ask(MakeMemTable(twice), {memfd, memfd}));
  EXPECT_FALSE(front_end->Ask(Request::kAddMemReg, SingleMemRegion{0, good}, {memfd}));
  MemRegion other = good;
  other.user_address += 4096;
  EXPECT_FALSE(front_end->Ask(Request::kRemMemReg, SingleMemRegion{0, other}));
}

TEST_F(HostileFrontEndTest, RingsOutsideSharedMemoryAreNotServed) {
  using Change = void (*)(VringAddr&);
  const Change changes[] = {
      [](VringAddr& address) { address.desc = 0; },
      [](VringAddr& address) { address.used = ~uint64_t{0} & ~uint64_t{15}; },
      [](VringAddr& address) { address.avail += 1 << 30; },
      [](VringAddr& address) { address.desc += 1; },
      [](VringAddr& address) { address.used += fakes::GuestRam::kDefaultBytes - 8; },
  };
  for (const Change change : changes) {
    auto front_end = ConnectReady();
    Ring ring(ram_, {.size = 16});
    ASSERT_TRUE(front_end->SetUp(ram_, 0, ring));
    VringAddr address = FrontEnd::AddressOf(ram_, 0, ring.driver.setup());
    change(address);
    // Where it lies is known to be wrong when it is to run.
    ASSERT_TRUE(front_end->Ask(Request::kSetVringAddr, address));
    ASSERT_TRUE(front_end->Enable(0));
    front_end->Kick(ring);
    EXPECT_TRUE(front_end->is_dropped());
    EXPECT_FALSE(why_.ok());
  }
}

TEST_F(HostileFrontEndTest, ARingWhoseMemoryIsTakenAwayStops) {
  auto front_end = ConnectReady();
  Ring ring(ram_, {.size = 16});
  ASSERT_TRUE(front_end->SetUp(ram_, 0, ring) && front_end->Enable(0));
  ASSERT_TRUE(Echoes(*front_end, ring));
  const SingleMemRegion region{.padding = 0, .region = FrontEnd::RegionOf(ram_)};
  EXPECT_TRUE(front_end->Ask(Request::kRemMemReg, region)) << "no memory, no ring";
  EXPECT_FALSE(device_.backend().Report().running);
  fakes::GuestRam other(64 << 10, 1 << 30, true);
  EXPECT_FALSE(front_end->ShareMemory(other)) << "the ring lies elsewhere";
  EXPECT_FALSE(device_.backend().Report().running);
  EXPECT_TRUE(front_end->ShareMemory(ram_));
  EXPECT_TRUE(Echoes(*front_end, ring)) << "and is back";
}

TEST_F(HostileFrontEndTest, OnlyWhatCanBeSignalledIsTakenAsAnEventFd) {
  const std::string path = ::testing::TempDir() + "victim-" + std::to_string(getpid());
  const kernel_abi::UniqueFd file(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  unlink(path.c_str());
  const kernel_abi::UniqueFd device(open("/dev/zero", O_RDWR | O_CLOEXEC));
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  const kernel_abi::UniqueFd socket(ends[0]);
  const kernel_abi::UniqueFd other_end(ends[1]);
  auto front_end = ConnectReady();
  for (const int fd : {file.get(), device.get(), socket.get()}) {
    for (const Request request :
         {Request::kSetVringKick, Request::kSetVringCall, Request::kSetVringErr}) {
      EXPECT_FALSE(front_end->Ask(request, uint64_t{0}, {fd}));
    }
  }
  front_end->Close();
}

TEST_F(HostileFrontEndTest, ACallThatIsFullBlocksNobody) {
  int pipe_ends[2];
  ASSERT_EQ(pipe2(pipe_ends, O_CLOEXEC), 0);
  const kernel_abi::UniqueFd reader(pipe_ends[0]);
  const kernel_abi::UniqueFd writer(pipe_ends[1]);
  ASSERT_EQ(fcntl(writer.get(), F_SETPIPE_SZ, 4096), 4096);
  ASSERT_EQ(write(writer.get(), std::vector<char>(4096).data(), 4096), 4096);
  const kernel_abi::UniqueFd full(kernel_abi::LinuxKernel().EventFd(0, 0));
  const uint64_t most = ~uint64_t{0} - 1;
  ASSERT_EQ(write(full.get(), &most, sizeof(most)), 8);
  for (const int call : {writer.get(), full.get()}) {
    auto front_end = ConnectReady();
    Ring ring(ram_, {.size = 16});
    ASSERT_TRUE(front_end->SetUp(ram_, 0, ring));
    ASSERT_TRUE(front_end->Ask(Request::kSetVringCall, uint64_t{0}, {call}));
    ASSERT_TRUE(front_end->Enable(0));
    for (int i = 0; i < 8; ++i) EXPECT_TRUE(Echoes(*front_end, ring));
    EXPECT_EQ(front_end->StopRing(0), 8U);
    front_end->Close();
  }
}

TEST_F(HostileFrontEndTest, AKickThatIsReadyForEverKeepsNobodyBusy) {
  // The other end is closed: readable without end, and never anything to read.
  int pipe_ends[2];
  ASSERT_EQ(pipe2(pipe_ends, O_CLOEXEC), 0);
  const kernel_abi::UniqueFd kick(pipe_ends[0]);
  kernel_abi::UniqueFd(pipe_ends[1]).Reset();
  for (const uint32_t queue : {0, 1}) {
    auto front_end = ConnectReady();
    Ring ring(ram_, {.size = 16});
    ASSERT_TRUE(front_end->SetUp(ram_, queue, ring));
    ASSERT_TRUE(front_end->Ask(Request::kSetVringKick, uint64_t{queue}, {kick.get()}));
    loop_.Pump();
    EXPECT_EQ(loop_.Pump(), 0) << "the loop is quiet";
    EXPECT_TRUE(front_end->Enable(queue));
    EXPECT_EQ(loop_.Pump(), 0);
    front_end->Close();
  }
}

TEST_F(HostileFrontEndTest, WhoDoesNotReadAnswersIsDropped) {
  auto front_end = Connect();
  for (int i = 0; i < 100'000 && disconnects_ < connects_; ++i) {
    SendRaw(*front_end, Bytes(MakeRequest(Request::kGetFeatures)));
  }
  EXPECT_EQ(disconnects_, connects_);
  EXPECT_FALSE(why_.ok());
}

TEST_F(HostileFrontEndTest, AFloodOfMessagesIsServedInTurns) {
  auto front_end = ConnectReady();
  for (int round = 0; round < 20; ++round) {
    std::vector<std::byte> flood;
    for (int i = 0; i < 500; ++i) {
      const std::vector<std::byte> one = Bytes(MakeRequest(Request::kSetOwner));
      flood.insert(flood.end(), one.begin(), one.end());
    }
    SendRaw(*front_end, flood);
  }
  EXPECT_EQ(front_end->GetNumber(Request::kGetQueueNum), 3U);
}

}  // namespace
}  // namespace vhost::user
