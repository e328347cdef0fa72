// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A guest with network queues and a TAP on its host, whoever serves the queues.
#pragma once

#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kernel-abi/virtio.h"
#include "tests/integration/real_machine.h"
#include "tests/integration/wire.h"
#include "vhost/host/link.h"
#include "vhost/host/tap.h"

namespace vhost {

class NetMachineTest : public RealMachineTest {
 protected:
  static constexpr VirtioFeatures kAcked = {VirtioFeature::kVersion1, VirtioFeature::kNetMrgRxbuf};
  static constexpr size_t kHeader = sizeof(kernel_abi::VirtioNetHdr);

  explicit NetMachineTest(const char* node) : RealMachineTest(node) {}

  void MakeTap(int queues, int sndbuf_bytes = kDefaultSndbufBytes) {
    auto tap =
        Tap::Create(kernel_, {.name = "tapvhost", .queues = queues, .sndbuf_bytes = sndbuf_bytes});
    ASSERT_TRUE(tap.ok()) << tap.status();
    tap_ = *std::move(tap);
    auto links = Links::Open();
    ASSERT_TRUE(links.ok()) << links.status();
    ASSERT_TRUE(links->SetUp("tapvhost", true).ok());
    wire_.emplace(links->Get("tapvhost")->index);
    ASSERT_TRUE(wire_->ok());
  }

  void PostReceiveBuffers(int queue, int count) {
    for (int i = 0; i < count; ++i) {
      queues_[static_cast<size_t>(queue)]->ring.Chain().Writable(2048).Publish();
    }
    queues_[static_cast<size_t>(queue)]->kick.Signal();
  }
  void Transmit(int queue, absl::string_view text) {
    std::vector<std::byte> bytes(kHeader);
    const std::vector<std::byte> frame = Wire::Frame(text);
    bytes.insert(bytes.end(), frame.begin(), frame.end());
    queues_[static_cast<size_t>(queue)]->ring.Chain().Readable(bytes).Publish();
    queues_[static_cast<size_t>(queue)]->kick.Signal();
  }
  // Until fewer than 100 chains are under way.
  void WaitForRoom(int queue) {
    fakes::DriverRing& ring = queues_[static_cast<size_t>(queue)]->ring;
    EXPECT_TRUE(Wait([&ring] {
      while (ring.TakeUsed().has_value()) continue;
      return static_cast<uint16_t>(ring.available_index() - ring.used_index()) < 100;
    }));
  }
  // The next frame of ours on a receive queue; the host's own chatter is passed over.
  std::string ReceiveText(int queue) {
    for (int i = 0; i < 1000; ++i) {
      const auto used = WaitUsed(*queues_[static_cast<size_t>(queue)]);
      if (!used.has_value()) return "nothing came";
      PostReceiveBuffers(queue, 1);
      if (used->data.size() < kHeader + Wire::kHeaderBytes) continue;
      const std::byte* frame = used->data.data() + kHeader;
      if (frame[12] != std::byte{Wire::kEtherType >> 8} ||
          frame[13] != std::byte{Wire::kEtherType & 0xff}) {
        continue;
      }
      return Wire::Text(frame, used->data.size() - kHeader);
    }
    return "only chatter came";
  }

  std::unique_ptr<Tap> tap_;
  std::optional<Wire> wire_;
};

}  // namespace vhost
