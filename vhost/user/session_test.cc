// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What a well-behaved front end sees of a server.
#include "vhost/user/session.h"

#include <unistd.h>

#include "vhost/user/server_fixture.h"

namespace vhost::user {
namespace {

using SessionTest = ServerFixture;

TEST_F(SessionTest, OffersTheDevicesFeaturesAndProtocolFeatures) {
  auto front_end = Connect();
  EXPECT_EQ(front_end->GetNumber(Request::kGetFeatures), device_.features().low() | kProtocolBit);
  const auto protocol =
      ProtocolFeatures::FromWords(front_end->GetNumber(Request::kGetProtocolFeatures).value());
  EXPECT_TRUE(protocol.Has(ProtocolFeature::kReplyAck));
  EXPECT_TRUE(protocol.Has(ProtocolFeature::kConfig));
  EXPECT_FALSE(protocol.Has(ProtocolFeature::kNetMtu));
  EXPECT_FALSE(protocol.Has(ProtocolFeature::kLogShmFd));
  EXPECT_EQ(front_end->GetNumber(Request::kGetQueueNum), 3U);
}

TEST_F(SessionTest, ARingRunsOnceItIsKickedAndEnabled) {
  auto front_end = ConnectReady();
  Ring ring(ram_, {.size = 16});
  ASSERT_TRUE(front_end->SetUp(ram_, 0, ring));
  EXPECT_EQ(device_.prepared, 0) << "before any kick";
  front_end->Kick(ring);
  EXPECT_EQ(device_.prepared, 0) << "before it is enabled";
  ASSERT_TRUE(front_end->Enable(0));
  EXPECT_EQ(device_.prepared, 1);
  EXPECT_EQ(device_.new_drivers, 1);
  EXPECT_TRUE(Echoes(*front_end, ring));
}

TEST_F(SessionTest, ARingIsEnabledFromTheStartWithoutProtocolFeatures) {
  auto front_end = Connect();
  front_end->Send(MakeRequest(Request::kSetOwner));
  front_end->Send(MakeRequest(Request::kSetFeatures, kVersion1Bit));
  const MemRegion region = FrontEnd::RegionOf(ram_);
  front_end->Send(MakeMemTable({&region, 1}), {ram_.region().memfd});
  Ring ring(ram_, {.size = 16});
  front_end->Send(MakeRequest(Request::kSetVringNum, VringState{0, 16}));
  front_end->Send(MakeRequest(Request::kSetVringBase, VringState{0, 0}));
  front_end->Send(
      MakeRequest(Request::kSetVringAddr, FrontEnd::AddressOf(ram_, 0, ring.driver.setup())));
  front_end->Send(MakeRequest(Request::kSetVringKick, uint64_t{0}), {ring.kick.get()});
  front_end->Send(MakeRequest(Request::kSetVringCall, uint64_t{0}), {ring.call.get()});
  EXPECT_TRUE(Echoes(*front_end, ring));
}

TEST_F(SessionTest, StoppingARingTellsWhereAnotherServerGoesOn) {
  auto front_end = ConnectReady();
  Ring ring(ram_, {.size = 16});
  ASSERT_TRUE(front_end->SetUp(ram_, 0, ring) && front_end->Enable(0));
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(Echoes(*front_end, ring));
  EXPECT_EQ(front_end->StopRing(0), 20U);
  ring.driver.Chain().Readable("later").Writable(16).Publish();
  front_end->Kick(ring);
  EXPECT_EQ(ring.driver.TakeUsed(), std::nullopt);
  // Its kick eventfd was given back with it.
  ASSERT_TRUE(front_end->SetUp(ram_, 0, ring, 20));
  const auto used = front_end->WaitForUsed(ring);
  ASSERT_TRUE(used.has_value());
  EXPECT_EQ(used->text(), "LATER");
  EXPECT_EQ(device_.new_drivers, 1) << "the driver went on";
}

TEST_F(SessionTest, APackedRingGoesOnWithItsWrapCounters) {
  auto front_end = ConnectReady(kVersion1Bit | kPackedBit);
  Ring ring(ram_, {.size = 16, .packed = true});
  const uint32_t first = InitialBase(VringLayout::kPacked);
  ASSERT_TRUE(front_end->SetUp(ram_, 0, ring, first) && front_end->Enable(0));
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(Echoes(*front_end, ring));
  const std::optional<uint32_t> base = front_end->StopRing(0);
  ASSERT_TRUE(base.has_value());
  EXPECT_EQ(*base & 0xffff, *base >> 16) << "nothing was under way";
  ASSERT_TRUE(front_end->SetUp(ram_, 0, ring, *base));
  EXPECT_TRUE(Echoes(*front_end, ring));
  // Others tell of the driver's place alone.
  const std::optional<uint32_t> again = front_end->StopRing(0);
  ASSERT_TRUE(again.has_value());
  ASSERT_TRUE(front_end->SetUp(ram_, 0, ring, *again & 0xffff));
  EXPECT_TRUE(Echoes(*front_end, ring));
}

TEST_F(SessionTest, MemoryMayChangeUnderARunningRing) {
  auto front_end = ConnectReady();
  Ring ring(ram_, {.size = 16});
  ASSERT_TRUE(front_end->SetUp(ram_, 0, ring) && front_end->Enable(0));
  ASSERT_TRUE(Echoes(*front_end, ring));
  ASSERT_TRUE(front_end->ShareMemory(ram_));
  ASSERT_TRUE(Echoes(*front_end, ring));
  EXPECT_EQ(device_.new_drivers, 1);

  fakes::GuestRam more(64 << 10, 1 << 30, true);
  const SingleMemRegion region{.padding = 0, .region = FrontEnd::RegionOf(more)};
  ASSERT_TRUE(front_end->Ask(Request::kAddMemReg, region, {more.region().memfd}));
  // A buffer in it is found, and is not any more once it has been taken away.
  const GuestAddress buffer = more.Allocate(16);
  more.Put(buffer, std::as_bytes(std::span("far away", 8)));
  ring.driver.Chain().At(buffer, 8, false).Writable(16).Publish();
  front_end->Kick(ring);
  EXPECT_EQ(front_end->WaitForUsed(ring)->text(), "FAR AWAY");
  ASSERT_TRUE(front_end->Ask(Request::kRemMemReg, region));
  EXPECT_FALSE(front_end->Ask(Request::kRemMemReg, region)) << "it is gone";
  ASSERT_TRUE(Echoes(*front_end, ring));
  ring.driver.Chain().At(buffer, 8, false).Writable(16).Publish();
  front_end->Kick(ring);
  // The ring is broken, which its err eventfd tells.
  for (int i = 0; i < 60'000 && !ring.err.IsSignalled(); ++i) {
    loop_.Pump();
    usleep(1000);
  }
  EXPECT_TRUE(ring.err.IsSignalled());
  EXPECT_FALSE(front_end->is_dropped());
}

TEST_F(SessionTest, KickCallAndAddressesMayChangeWhileARingRuns) {
  auto front_end = ConnectReady();
  Ring ring(ram_, {.size = 16});
  ASSERT_TRUE(front_end->SetUp(ram_, 0, ring) && front_end->Enable(0));
  ASSERT_TRUE(Echoes(*front_end, ring));
  ring.kick = *kernel_abi::EventFd::Create(kernel_abi::LinuxKernel());
  ring.call = *kernel_abi::EventFd::Create(kernel_abi::LinuxKernel());
  ASSERT_TRUE(front_end->Ask(Request::kSetVringKick, uint64_t{0}, {ring.kick.get()}));
  ASSERT_TRUE(front_end->Ask(Request::kSetVringCall, uint64_t{0}, {ring.call.get()}));
  ASSERT_TRUE(Echoes(*front_end, ring)) << "without another start";
  ASSERT_TRUE(
      front_end->Ask(Request::kSetVringAddr, FrontEnd::AddressOf(ram_, 0, ring.driver.setup())));
  ASSERT_TRUE(Echoes(*front_end, ring));
  ASSERT_TRUE(front_end->Ask(Request::kSetVringCall, uint64_t{0} | kVringFdNone));
  ring.call.Drain();
  ring.driver.Chain().Readable("polled").Writable(16).Publish();
  front_end->Kick(ring);
  EXPECT_EQ(front_end->WaitForUsed(ring)->text(), "POLLED");
  EXPECT_FALSE(ring.call.IsSignalled());
}

TEST_F(SessionTest, WhatWouldGoOutIsThrownAwayWhileARingIsDisabled) {
  auto front_end = ConnectReady();
  Ring in(ram_, {.size = 16});
  Ring out(ram_, {.size = 16});
  ASSERT_TRUE(front_end->SetUp(ram_, 0, in) && front_end->SetUp(ram_, 1, out));
  in.driver.Chain().Readable("in").Writable(16).Publish();
  out.driver.Chain().Readable("out").Writable(16).Publish();
  front_end->Kick(in);
  front_end->Kick(out);
  const auto used = front_end->WaitForUsed(out);
  ASSERT_TRUE(used.has_value());
  EXPECT_EQ(used->written, 0U);
  EXPECT_EQ(in.driver.TakeUsed(), std::nullopt);
  ASSERT_TRUE(front_end->Enable(0) && front_end->Enable(1));
  EXPECT_EQ(front_end->WaitForUsed(in)->text(), "IN");
  EXPECT_TRUE(Echoes(*front_end, out));
  ASSERT_TRUE(front_end->Enable(1, false));
  out.driver.Chain().Readable("again").Writable(16).Publish();
  front_end->Kick(out);
  EXPECT_EQ(front_end->WaitForUsed(out)->written, 0U);
  EXPECT_EQ(front_end->StopRing(1), 3U);
}

TEST_F(SessionTest, AResetStopsAllRingsAndForgetsTheDriver) {
  auto front_end = ConnectReady();
  Ring ring(ram_, {.size = 16});
  ASSERT_TRUE(front_end->SetUp(ram_, 0, ring) && front_end->Enable(0));
  ASSERT_TRUE(Echoes(*front_end, ring));
  ASSERT_TRUE(front_end->Ask(Request::kSetStatus, uint64_t{15}));
  EXPECT_EQ(front_end->GetNumber(Request::kGetStatus), 15U);
  ASSERT_TRUE(front_end->Ask(Request::kSetStatus, uint64_t{0}));
  EXPECT_EQ(front_end->GetNumber(Request::kGetStatus), 0U);
  EXPECT_EQ(device_.new_drivers, 2);
  ring.driver.Forget();
  ASSERT_TRUE(front_end->SetUp(ram_, 0, ring));
  ASSERT_TRUE(Echoes(*front_end, ring));
  ASSERT_TRUE(front_end->Ask(MakeRequest(Request::kResetDevice)));
  ring.driver.Forget();
  ASSERT_TRUE(front_end->SetUp(ram_, 0, ring));
  front_end->Kick(ring);
  const int prepared = device_.prepared;
  ASSERT_TRUE(front_end->Enable(0)) << "which it is not after RESET_DEVICE";
  EXPECT_EQ(device_.prepared, prepared + 1);
  ASSERT_TRUE(Echoes(*front_end, ring));
}

TEST_F(SessionTest, TheConfigurationSpaceIsReadAndWrittenWithinItsBounds) {
  auto front_end = ConnectReady();
  const std::byte bytes[4] = {std::byte{1}, std::byte{2}, std::byte{3}, std::byte{4}};
  ASSERT_TRUE(front_end->Ask(MakeConfig(Request::kSetConfig, 4, 0, bytes)));
  front_end->Send(MakeConfig(Request::kGetConfig, 2, 0, std::vector<std::byte>(6)));
  const auto answer = GetConfig(front_end->TryReceive().value());
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->bytes.size(), 6U);
  EXPECT_EQ(answer->bytes[2], std::byte{1});
  EXPECT_FALSE(front_end->Ask(MakeConfig(Request::kSetConfig, 5, 0, bytes)));
  front_end->Send(MakeConfig(Request::kGetConfig, 0xffff'fff0, 0, std::vector<std::byte>(32)));
  EXPECT_TRUE(front_end->TryReceive().value().payload.empty());
  EXPECT_FALSE(front_end->is_dropped());
}

TEST_F(SessionTest, AFrontEndThatGoesLeavesNothingRunning) {
  const size_t watches = loop_.watches();
  auto front_end = ConnectReady();
  Ring ring(ram_, {.size = 16});
  ASSERT_TRUE(front_end->SetUp(ram_, 0, ring) && front_end->Enable(0));
  ASSERT_TRUE(Echoes(*front_end, ring));
  auto next = Connect();
  EXPECT_EQ(connects_, 1) << "one at a time";
  front_end->Close();
  EXPECT_EQ(disconnects_, 1);
  EXPECT_TRUE(why_.ok()) << why_;
  EXPECT_FALSE(is_last_);
  EXPECT_EQ(loop_.watches(), watches) << "all is in one watch";
  EXPECT_FALSE(device_.backend().Report().running);
  // The next one goes on from the used index, which is all that is left of the one before.
  EXPECT_EQ(connects_, 2);
  ring.driver.Chain().Readable("missed").Writable(16).Publish();
  ASSERT_TRUE(next->Negotiate(kVersion1Bit, kAllProtocolFeatures) && next->ShareMemory(ram_));
  ASSERT_TRUE(next->SetUp(ram_, 0, ring, 1) && next->Enable(0));
  EXPECT_EQ(next->WaitForUsed(ring)->text(), "MISSED");
  EXPECT_EQ(device_.new_drivers, 1);
}

TEST_F(SessionTest, AQueueThatIsNotServedMayBeSetUp) {
  auto front_end = ConnectReady();
  Ring ring(ram_, {.size = 16});
  ASSERT_TRUE(front_end->SetUp(ram_, 2, ring) && front_end->Enable(2));
  front_end->Kick(ring);
  EXPECT_EQ(device_.prepared, 0);
  EXPECT_EQ(front_end->StopRing(2), 0U);
}

TEST(ServerTest, AConnectionThatWasHandedInIsServedAndIsTheLast) {
  fakes::ManualLoop loop;
  EchoDevice device;
  auto ends = Connection::MakeSockets();
  ASSERT_TRUE(ends.ok());
  bool is_last = false;
  ServerOptions options;
  options.socket = std::move(ends->first);
  options.on_disconnect = [&is_last](const absl::Status&, bool last) { is_last = last; };
  auto server = Server::Create(kernel_abi::LinuxKernel(), loop, device, std::move(options));
  ASSERT_TRUE(server.ok()) << server.status();
  fakes::VhostUserFrontEnd front_end(std::move(ends->second), [&loop] { loop.Pump(); });
  EXPECT_EQ(front_end.GetNumber(FrontEndRequest::kGetQueueNum), 3U);
  front_end.Close();
  EXPECT_TRUE(is_last);
}

TEST(ServerTest, ASocketThatIsNoneIsRefused) {
  fakes::ManualLoop loop;
  EchoDevice device;
  ServerOptions options;
  options.socket.Reset(kernel_abi::LinuxKernel().EventFd(0, 0));
  EXPECT_FALSE(Server::Create(kernel_abi::LinuxKernel(), loop, device, std::move(options)).ok());
  EXPECT_FALSE(Server::Create(kernel_abi::LinuxKernel(), loop, device, {}).ok());
}

}  // namespace
}  // namespace vhost::user
