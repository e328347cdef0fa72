// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Frames made from a fuzzer's input.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "tests/fuzz/net_oracle.h"
#include "vhost/inprocess/net_frames_fixture.h"

namespace fuzz {

inline constexpr size_t kHeader = sizeof(VirtioNetHdr);

// The input, from its front. Zeros when it is used up.
class Input {
 public:
  Input(const uint8_t* data, size_t size) : rest_(data, size) {}
  bool empty() const { return rest_.empty(); }
  uint8_t Byte() {
    if (rest_.empty()) return 0;
    const uint8_t value = rest_.front();
    rest_ = rest_.subspan(1);
    return value;
  }
  uint16_t Word() {
    const uint8_t high = Byte();
    return static_cast<uint16_t>(high << 8 | Byte());
  }
  Bytes Rest() {
    const auto bytes = std::as_bytes(std::exchange(rest_, {}));
    return {bytes.begin(), bytes.end()};
  }

 private:
  std::span<const uint8_t> rest_;
};

// Frames of a few flows that go on where they left off, so that they can be merged, unless the
// input spoils them.
class Frames {
 public:
  NetFrame Next(Input& input) {
    const uint8_t kind = input.Byte();
    const uint8_t more = input.Byte();
    vhost::inprocess::FrameSpec& flow = flows_[kind % flows_.size()];
    flow.tcp = (kind & 4) == 0;
    flow.ipv6 = (kind & 8) != 0;
    flow.vlan = (kind & 16) != 0;
    flow.partial = (kind & 32) != 0;
    flow.source_port = kind % flows_.size();
    flow.flags = (more & 1) != 0 ? vhost::inprocess::kTcpAck | vhost::inprocess::kTcpPsh
                                 : vhost::inprocess::kTcpAck;
    if ((more & 2) != 0) flow.payload = input.Byte();
    if ((more & 4) != 0) flow.payload = input.Word() % 65'000;
    if ((more & 8) != 0) flow.options.resize(size_t{4} * (input.Byte() % 11), std::byte{1});
    NetFrame frame{HeaderOf(flow), BuildFrame(flow)};
    flow.sequence += static_cast<uint32_t>(flow.payload);
    ++flow.id;
    if ((more & 16) != 0) Segmented(input, flow, frame.header);
    if ((more & 32) != 0) {
      for (int changes = input.Byte() % 4; changes >= 0; --changes) Spoil(input, frame.bytes);
    }
    if ((more & 64) != 0) frame.bytes.resize(input.Word() % 512);
    if ((more & 128) != 0) {
      for (int changes = input.Byte() % 4; changes >= 0; --changes) {
        auto* at = reinterpret_cast<uint8_t*>(&frame.header);
        const size_t offset = input.Byte() % kHeader;
        at[offset] = input.Byte();
      }
    }
    return frame;
  }

 private:
  static void Segmented(Input& input, const vhost::inprocess::FrameSpec& flow,
                        VirtioNetHdr& header) {
    header.gso_type = !flow.tcp   ? kernel_abi::kNetHdrGsoUdpL4
                      : flow.ipv6 ? kernel_abi::kNetHdrGsoTcpV6
                                  : kernel_abi::kNetHdrGsoTcpV4;
    header.gso_size = static_cast<uint16_t>(8 * input.Byte());
    header.hdr_len = ShapeOf(flow).payload;
  }
  static void Spoil(Input& input, Bytes& bytes) {
    // Mostly in the headers.
    const size_t offset = input.Byte();
    if (offset < bytes.size()) bytes[offset] = std::byte{input.Byte()};
  }

  std::array<vhost::inprocess::FrameSpec, 4> flows_;
};

}  // namespace fuzz
