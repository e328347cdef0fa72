// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Socket queues served by this process: virtqueues 0 (receive) and 1 (transmit); the event queue is
// the device's own. The host's side are unix sockets (vsock_host.h), which anybody may use who may
// write to their files: no AF_VSOCK, no kernel module, no CID of this host is needed.
//
// Connections live through a stop and a start: sockets wait meanwhile. They end when a driver
// begins anew (both rings start from their first entry: the guest was reset, and knows of no
// connection), and by DropConnections(), which belongs to a transport reset.
//
// Thread safety: as Backend. The data path runs on a data thread of its own, or on one shared with
// other devices.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kernel-abi/event_fd.h"
#include "kernel-abi/kernel.h"
#include "vhost/backend.h"
#include "vhost/inprocess/data_thread.h"
#include "vhost/inprocess/virtqueue.h"
#include "vhost/inprocess/vsock_host.h"
#include "vhost/inprocess/vsock_limits.h"
#include "vhost/inprocess/vsock_mux.h"
#include "vhost/packet_capture.h"

namespace vhost::inprocess {

struct InProcessVsockOptions {
  uint64_t guest_cid = 0;  // 3 to 2^32 - 2; nobody else on the host has to know it
  VsockHostOptions host;
  VsockLimits limits;
  // Shows the packets to whoever wants to see them; nullptr: nobody can. The device's, so that it
  // is the same when a backend is made anew.
  std::shared_ptr<PacketCapture> capture;
  // The thread that serves it together with others; nullptr: one of its own, made as below.
  std::shared_ptr<DataThread> thread;
  DataThreadOptions thread_options{.name = "vhost-vsock"};
};

class InProcessVsockBackend final : public Backend, private DataTask {
 public:
  // The sockets listen from now on; clients are accepted while it runs. `kernel` must outlive it.
  static absl::StatusOr<std::unique_ptr<InProcessVsockBackend>> Create(
      kernel_abi::Kernel& kernel, InProcessVsockOptions options);
  ~InProcessVsockBackend() override;

  uint64_t guest_cid() const { return options_.guest_cid; }
  // Ends all connections without a word to the guest: before the device goes to another backend, or
  // because the driver is new. Peers on the host see the end of the stream, or ECONNRESET.
  void DropConnections();
  VsockStats stats() const;

  BackendKind kind() const override { return BackendKind::kInProcess; }
  VirtioFeatures Supported(VirtioFeatures wanted) const override;
  absl::Status CheckMemory(const MemoryTable&) const override { return absl::OkStatus(); }
  absl::Status Start(const BackendStart& start) override;
  std::vector<StoppedVring> Stop() override;
  absl::Status StartVring(const BackendVring& vring) override;
  absl::StatusOr<VringBase> StopVring(int queue) override;
  absl::Status SetMemory(const std::shared_ptr<const MemoryTable>& memory) override;
  absl::Status SetCall(int queue, int call_fd) override;
  std::optional<VringPosition> Position(int queue) const override;
  int error_fd(int queue) const override;
  void CountError(int queue) override;
  bool holds_connections() const override { return true; }
  BackendReport Report() const override;

 private:
  static constexpr size_t kQueues = 2;
  struct Queue {
    kernel_abi::EventFd error;
    uint64_t errors = 0;
    uint64_t kicks = 0;
    int kick_fd = -1;
    int call_fd = -1;
    bool told_broken = false;
    std::unique_ptr<Virtqueue> ring;  // while it runs
  };
  struct Running {
    VirtioFeatures acked;
    std::shared_ptr<const MemoryTable> memory;
  };

  InProcessVsockBackend(kernel_abi::Kernel& kernel, InProcessVsockOptions options,
                        std::shared_ptr<DataThread> thread, std::unique_ptr<VsockMux> mux)
      : kernel_(kernel),
        options_(std::move(options)),
        thread_(std::move(thread)),
        mux_(std::move(mux)) {}

  // ---- DataTask: on the data thread ----
  bool Poll() override;
  bool Arm() override;
  void OnReady(uint32_t token, uint32_t events) override;
  void OnTimer() override { timer_.reset(); }

  static absl::Status CheckQueue(int queue);
  absl::StatusOr<std::unique_ptr<Virtqueue>> MakeRing(const BackendVring& vring) const;
  // With the data thread kept out: hands `ring` to the mux and watches its kicks.
  absl::Status Enter(const BackendVring& vring, std::unique_ptr<Virtqueue> ring);
  VringBase Leave(size_t queue);
  void AttachRings();

  kernel_abi::Kernel& kernel_;
  const InProcessVsockOptions options_;
  const std::shared_ptr<DataThread> thread_;
  const std::unique_ptr<VsockMux> mux_;
  std::vector<Queue> queues_;
  std::optional<Running> running_;
  uint64_t memory_updates_ = 0;
  std::optional<VsockMux::Clock::time_point> timer_;  // as the thread was last told
};

}  // namespace vhost::inprocess
