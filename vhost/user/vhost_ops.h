// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The vhost requests, asked of another process: VhostOps (vhost/kernel/vhost_ops.h) over a socket,
// so that VhostDevice drives a back end by the same order of calls as a node of the kernel, and
// what only vhost-user has besides.
//
// Where the two differ:
//   - A ring is stopped by GET_VRING_BASE, which also gives its eventfds up. To take a kick eventfd
//     away by SET_VRING_KICK would start the ring, polling: it is not sent.
//   - Where a ring lies is forgotten when it is stopped.
//   - The memory goes as fds. What is anonymous cannot go.
//   - A request is over when it was sent. Where that is not enough (the memory table, whatever may
//     be refused) an answer is asked for: by REPLY_ACK, or else by another request behind it.
//
// Every request is bounded by a time limit. After any failure but a refusal the connection is
// broken, and all fail.
//
// Thread safety: none; calls are made one at a time.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernel-abi/unique_fd.h"
#include "vhost/features.h"
#include "vhost/guest_memory.h"
#include "vhost/kernel/vhost_device.h"
#include "vhost/kernel/vhost_ops.h"
#include "vhost/user/connection.h"
#include "vhost/user/protocol.h"

namespace vhost::user {

class UserVhostOps final : public VhostOps {
 public:
  // `error_fds`, lent for as long as it lives: what SetVringErr hands over, by index, whatever it
  // is given: a back end's error eventfds outlive its connections.
  UserVhostOps(Connection connection, std::vector<int> error_fds, std::chrono::milliseconds timeout)
      : connection_(std::move(connection)), error_fds_(std::move(error_fds)), timeout_(timeout) {}

  Connection& connection() { return connection_; }
  const Connection& connection() const { return connection_; }
  // Requests made, for reports.
  uint64_t requests() const { return requests_; }

  // ---- VhostOps ----
  const std::string& name() const override { return connection_.name(); }
  absl::Status SetOwner() override;
  absl::StatusOr<VhostFeatures> GetFeatures() override;
  absl::Status SetFeatures(VhostFeatures features) override;
  absl::StatusOr<uint64_t> GetBackendFeatures() override;
  absl::Status SetBackendFeatures(uint64_t features) override;
  absl::Status SetMemoryTable(std::span<const MemoryRegion> regions) override;
  absl::Status SetLogBase(const void* bitmap) override;
  absl::Status SetLogFd(int event_fd) override;
  absl::Status SetVringSize(uint32_t index, uint32_t entries) override;
  absl::Status SetVringBase(uint32_t index, uint32_t base) override;
  absl::StatusOr<uint32_t> GetVringBase(uint32_t index) override;
  absl::Status SetVringAddresses(uint32_t index, const VringAddresses& addresses) override;
  absl::Status SetVringKick(uint32_t index, int event_fd) override;
  absl::Status SetVringCall(uint32_t index, int event_fd) override;
  absl::Status SetVringErr(uint32_t index, int event_fd) override;
  absl::Status SetVringBusyloop(uint32_t index, uint32_t timeout_us) override;
  absl::StatusOr<uint32_t> GetVringBusyloop(uint32_t index) override;
  bool forgets_stopped_rings() const override { return true; }
  void Close() override { connection_.Close(); }

  // ---- What only vhost-user has ----
  // Agrees on those of `wanted` that the back end has, which needs GetFeatures before.
  absl::StatusOr<ProtocolFeatures> NegotiateProtocol(ProtocolFeatures wanted);
  ProtocolFeatures protocol() const { return protocol_; }
  bool Has(ProtocolFeature feature) const { return protocol_.Has(feature); }

  absl::StatusOr<uint64_t> GetQueueNum();
  absl::StatusOr<uint64_t> GetMaxMemSlots();
  // How many regions SetMemoryTable takes at most.
  void set_max_regions(uint64_t regions) { max_regions_ = regions; }
  absl::Status SetBackendReqFd(int socket);
  // `bytes` of the configuration space from its beginning.
  absl::StatusOr<std::vector<std::byte>> GetConfig(uint32_t bytes);
  absl::Status SetConfig(uint32_t offset, std::span<const std::byte> bytes);
  // True once protocol features were agreed on: rings are disabled until then.
  bool rings_need_enable() const { return speaks_protocol_; }
  absl::Status SetVringEnable(uint32_t index, bool enabled);
  absl::Status ResetDevice();
  absl::Status SetStatus(uint8_t status);
  absl::StatusOr<uint8_t> GetStatus();
  struct Inflight {
    InflightDescription description{};
    kernel_abi::UniqueFd fd;
  };
  // INVALID_ARGUMENT: the answer has no memory to it.
  absl::StatusOr<Inflight> GetInflight(uint16_t queues, uint16_t queue_size);
  absl::Status SetInflight(const Inflight& inflight);
  absl::Status SetMtu(uint16_t mtu);

 private:
  // Sends, and asks for no answer.
  absl::Status Tell(const Message& message, std::span<const int> fds = {});
  // Sends, and waits until it was done. An error says if the back end refused.
  absl::Status TellAndWait(Message message, std::span<const int> fds = {});
  absl::StatusOr<Message> Ask(const Message& message, std::span<const int> fds = {});
  Connection::Deadline Deadline() const { return Connection::Clock::now() + timeout_; }
  absl::StatusOr<uint64_t> AskNumber(FrontEndRequest request);
  absl::Status SetVringFd(FrontEndRequest request, uint32_t index, int fd);
  absl::Status AddRegion(const MemoryRegion& region);
  absl::Status RemoveRegion(const MemoryRegion& region);

  Connection connection_;
  const std::vector<int> error_fds_;
  const std::chrono::milliseconds timeout_;  // of one request
  uint64_t requests_ = 0;
  bool speaks_protocol_ = false;
  ProtocolFeatures protocol_;
  uint64_t max_regions_ = kTableRegions;
  std::vector<MemoryRegion> regions_;  // that the back end has
};

// Whether `regions` can be shared at all: FAILED_PRECONDITION says which is not backed by a memfd,
// RESOURCE_EXHAUSTED that they are too many.
absl::Status CheckShareable(std::span<const MemoryRegion> regions, uint64_t max_regions);

// Rings are served once they are enabled; without protocol features, once they are set up.
class VringEnabler final : public VringAttachment {
 public:
  explicit VringEnabler(UserVhostOps& ops) : ops_(ops) {}
  bool all_at_once() const override { return false; }
  absl::Status Attach(uint32_t index) override { return Enable(index, true); }
  absl::Status Detach(uint32_t index) override { return Enable(index, false); }

 private:
  absl::Status Enable(uint32_t index, bool enabled) {
    return ops_.rings_need_enable() ? ops_.SetVringEnable(index, enabled) : absl::OkStatus();
  }
  UserVhostOps& ops_;
};

}  // namespace vhost::user
