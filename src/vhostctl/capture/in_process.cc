// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Packets that a process carries itself, asked for over its control socket.
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "kernel-abi/packet_socket.h"
#include "kernel-abi/virtio.h"
#include "src/vhostctl/capture/source.h"
#include "src/vhostctl/client.h"
#include "vhost/control/capture_json.h"

namespace vhost::ctl {
namespace {

using kernel_abi::VirtioVsockHdr;
using kernel_abi::VsockmonHdr;

constexpr int kPauseMs = 50;
// A process whose clients are too many just now is asked again for so long, and misses nothing for
// as long as its ring suffices.
constexpr absl::Duration kPatience = absl::Seconds(5);

uint16_t VsockmonOp(uint16_t op) {
  switch (op) {
    case kernel_abi::kVsockOpRequest:
    case kernel_abi::kVsockOpResponse:
      return kernel_abi::kVsockmonOpConnect;
    case kernel_abi::kVsockOpRst:
    case kernel_abi::kVsockOpShutdown:
      return kernel_abi::kVsockmonOpDisconnect;
    case kernel_abi::kVsockOpRw:
      return kernel_abi::kVsockmonOpPayload;
    case kernel_abi::kVsockOpCreditUpdate:
    case kernel_abi::kVsockOpCreditRequest:
      return kernel_abi::kVsockmonOpControl;
    default:
      return kernel_abi::kVsockmonOpUnknown;
  }
}

class InProcess final : public CaptureSource {
 public:
  InProcess(std::string socket, std::string device, const CaptureWanted& wanted)
      : socket_(std::move(socket)), device_(std::move(device)), wanted_(wanted) {}

  absl::Status Start() {
    absl::StatusOr<CaptureBatch> batch = Ask();
    if (!batch.ok()) return batch.status();
    next_ = batch->next;
    return absl::OkStatus();
  }

  PcapngInterface Describe() const override {
    return {.name = device_,
            .description = "packets that the process of the device carries, as in its rings",
            .link_type = kLinkTypeVsock,
            .snaplen = wanted_.snaplen};
  }
  int fd() const override { return -1; }
  int wait_ms() const override { return more_ ? 0 : kPauseMs; }
  uint64_t Dropped() override { return dropped_; }

  absl::Status Read(std::vector<PcapngPacket>* packets) override {
    const absl::StatusOr<CaptureBatch> batch = Ask();
    if (!batch.ok()) {
      more_ = false;
      const absl::Time now = absl::Now();
      const bool may_pass = absl::IsResourceExhausted(batch.status());
      if (!may_pass || now > last_heard_ + kPatience) return batch.status();
      return absl::OkStatus();
    }
    last_heard_ = absl::Now();
    more_ = batch->more || !batch->packets.empty();
    uint64_t before = next_.value_or(0);
    next_ = batch->next;
    dropped_ += batch->dropped;
    for (const CapturedPacket& packet : batch->packets) {
      // A device that was made anew counts from the beginning.
      const uint64_t missed = packet.number > before ? packet.number - before - 1 : 0;
      before = packet.number;
      if (wanted_.queue.has_value() && packet.queue != static_cast<int>(*wanted_.queue)) continue;
      packets->push_back(Convert(packet, missed));
    }
    return absl::OkStatus();
  }

 private:
  absl::StatusOr<CaptureBatch> Ask() const {
    const absl::StatusOr<std::string> result = ctl::Ask(
        socket_,
        {.command = "capture", .device = device_, .after = next_, .snaplen = wanted_.snaplen});
    if (!result.ok()) return result.status();
    return control::CaptureFromJson(*result);
  }

  PcapngPacket Convert(const CapturedPacket& packet, uint64_t missed) const {
    std::string frame = VsockmonFrame(packet.bytes);
    const size_t added = frame.size() - packet.bytes.size();
    if (wanted_.snaplen != 0 && frame.size() > wanted_.snaplen) frame.resize(wanted_.snaplen);
    return {.time_ns = packet.time_ns,
            .length = static_cast<uint32_t>(packet.length + added),
            .bytes = std::move(frame),
            .to_guest = packet.queue == 0,
            .queue = static_cast<uint32_t>(packet.queue),
            .dropped = missed == 0 ? std::nullopt : std::optional<uint64_t>(missed),
            .comment =
                absl::StrCat("virtqueue ", packet.queue, packet.queue == 0 ? " (rx)" : " (tx)",
                             ", chain head ", packet.head, ", ", packet.chain_bytes, " bytes in ",
                             packet.buffers, packet.buffers == 1 ? " buffer" : " buffers")};
  }

  const std::string socket_;
  const std::string device_;
  const CaptureWanted wanted_;
  std::optional<uint64_t> next_;
  uint64_t dropped_ = 0;
  bool more_ = false;
  absl::Time last_heard_ = absl::Now();
};

}  // namespace

std::string VsockmonFrame(const std::string& packet) {
  VirtioVsockHdr header;
  if (packet.size() < sizeof(header)) return packet;
  memcpy(&header, packet.data(), sizeof(header));
  const VsockmonHdr mon = {.src_cid = header.src_cid,
                           .dst_cid = header.dst_cid,
                           .src_port = header.src_port,
                           .dst_port = header.dst_port,
                           .op = VsockmonOp(header.op),
                           .transport = kernel_abi::kVsockmonTransportVirtio,
                           .transport_header_bytes = sizeof(header),
                           .reserved = {}};
  return std::string(reinterpret_cast<const char*>(&mon), sizeof(mon)) + packet;
}

absl::StatusOr<std::unique_ptr<CaptureSource>> CaptureInProcess(const std::string& socket,
                                                                const std::string& device,
                                                                const CaptureWanted& wanted) {
  auto source = std::make_unique<InProcess>(socket, device, wanted);
  if (absl::Status status = source->Start(); !status.ok()) return status;
  return source;
}

}  // namespace vhost::ctl
