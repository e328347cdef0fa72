// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A backend that is made of one function: it is given each buffer chain that the driver makes
// available, and answers it. For devices whose whole data path is that (an entropy source, an echo,
// a small block device), in a VMM as well as behind a vhost-user server:
//
//   ChainBackend::Create(kernel, {.queues = 1, .answer = [](int, Chain& chain) {
//     ...write into chain.writable()...
//     chain.Return(bytes_written);
//   }});
//
// Chains are answered in the order in which they came, each before the next is taken. So a split
// ring's used index says exactly what was answered, and a process that was killed goes on there.
//
// Thread safety: as Backend. `answer` runs on the data thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kernel-abi/event_fd.h"
#include "kernel-abi/kernel.h"
#include "vhost/backend.h"
#include "vhost/inprocess/data_thread.h"
#include "vhost/inprocess/virtqueue.h"

namespace vhost::inprocess {

struct ChainBackendOptions {
  int queues = 1;
  // Of the device's type, besides what concerns rings.
  VirtioFeatures device_features;
  // Must not wait for long: other queues do meanwhile, and whoever stops this one. A chain that it
  // has not returned is returned with 0 bytes.
  std::function<void(int queue, Chain& chain)> answer;
  // The thread that serves it together with others; nullptr: one of its own, made as below.
  std::shared_ptr<DataThread> thread;
  DataThreadOptions thread_options{.name = "vhost-chains"};
};

class ChainBackend final : public Backend, private DataTask {
 public:
  // INVALID_ARGUMENT: no queue, or no `answer`; else what DataThread says.
  static absl::StatusOr<std::unique_ptr<ChainBackend>> Create(kernel_abi::Kernel& kernel,
                                                              ChainBackendOptions options);
  ~ChainBackend() override;

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
  BackendReport Report() const override;

 private:
  struct Queue {
    kernel_abi::EventFd error;
    uint64_t errors = 0;
    uint64_t kicks = 0;
    uint64_t chains = 0;
    uint64_t calls = 0;
    uint64_t suppressed_calls = 0;
    int kick_fd = -1;
    int call_fd = -1;
    bool told_broken = false;
    std::unique_ptr<Virtqueue> ring;  // while it runs
  };
  struct Running {
    VirtioFeatures acked;
    std::shared_ptr<const MemoryTable> memory;
  };

  ChainBackend(kernel_abi::Kernel& kernel, ChainBackendOptions options,
               std::shared_ptr<DataThread> thread)
      : kernel_(kernel), options_(std::move(options)), thread_(std::move(thread)) {}

  // ---- DataTask: on the data thread ----
  bool Poll() override;
  bool Arm() override;
  void OnReady(uint32_t token, uint32_t) override { ++queues_[token].kicks; }

  absl::Status CheckQueue(int queue) const;
  // With the data thread kept out.
  absl::Status Enter(const BackendVring& vring);
  VringBase Leave(Queue& queue);
  bool Serve(int queue);

  kernel_abi::Kernel& kernel_;
  const ChainBackendOptions options_;
  const std::shared_ptr<DataThread> thread_;
  std::vector<Queue> queues_;
  std::optional<Running> running_;
  uint64_t memory_updates_ = 0;
};

}  // namespace vhost::inprocess
