// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Wiring by KVM: notifications by ioeventfd, interrupts by irqfd and MSI routes. A VMM makes one
// for its VM, once the interrupt controllers exist, and hands it to all transports:
//
//   auto wiring = kvm::VmWiring::Create(kernel, vm_fd, {.loop = &loop});
//   auto function = VirtioPci::Create(kernel, device, **wiring, loop, {...});
//
// What no irqfd can deliver (no interrupt controller in the kernel, a pin of a split irqchip's I/O
// APIC, no GSI left) is delivered from the event loop's thread, and the report says "thread".
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "kernel-abi/kernel.h"
#include "vhost/event_loop.h"
#include "vhost/kvm/msi_router.h"
#include "vhost/kvm/registrations.h"
#include "vhost/transport/wiring.h"

namespace vhost::kvm {

enum class Irqchip : uint8_t {
  kFull,   // KVM_CREATE_IRQCHIP: PICs, I/O APIC and local APICs in the kernel
  kSplit,  // KVM_CAP_SPLIT_IRQCHIP: local APICs in the kernel, the rest in the VMM
  kNone,   // all in the VMM
};

struct VmWiringOptions {
  Irqchip irqchip = Irqchip::kFull;
  // Where interrupts are delivered that no irqfd can. Without one they are refused.
  EventLoop* loop = nullptr;
  // The VMM's own GSI routing table. Without one, the whole table is ours (RoutingTable).
  MsiRouter* msi_router = nullptr;
  // Drives a pin of the I/O APIC; default: KVM_IRQ_LINE. Needed where the I/O APIC is the VMM's,
  // and where pins are shared with devices that are not of this library. Called with a lock held,
  // in the order of the changes: it must not call back.
  std::function<absl::Status(uint32_t gsi, bool high)> drive_line;
  // Sends a message that no irqfd can; default: KVM_SIGNAL_MSI. Needed for Irqchip::kNone.
  std::function<absl::Status(uint64_t address, uint32_t data)> send_msi;
};

// Thread safety: as Wiring.
class VmWiring final : public Wiring {
 public:
  // `vm_fd` is lent for the wiring's life. Asks KVM for its limits, and sets nothing.
  static absl::StatusOr<std::unique_ptr<VmWiring>> Create(kernel_abi::Kernel& kernel, int vm_fd,
                                                          VmWiringOptions options);
  ~VmWiring() override = default;

  absl::StatusOr<std::unique_ptr<Registration>> BindNotify(const NotifyAddress& address,
                                                           int event_fd) override;
  absl::StatusOr<std::unique_ptr<MsiVector>> NewMsiVector() override;
  absl::StatusOr<std::unique_ptr<Registration>> BindEdge(uint32_t gsi, int event_fd) override;
  absl::Status SetLine(uint32_t gsi, const void* user, bool asserted) override;

  // The VM's last fd will be closed next, and no vCPU runs any more: registrations that go from now
  // on leave their undoing to that.
  void ReleaseWithVm() { vm_.closing = true; }

 private:
  class Vector;
  class Edge;
  VmWiring(kernel_abi::Kernel& kernel, int vm_fd, VmWiringOptions options)
      : vm_{kernel, vm_fd}, options_(std::move(options)) {}

  absl::Status DriveLine(uint32_t gsi, bool high);
  absl::Status SendMsi(uint64_t address, uint32_t data);
  absl::StatusOr<std::unique_ptr<Registration>> WireEdge(uint32_t gsi, int event_fd);
  // Calls `deliver` on the event loop's thread whenever `event_fd` was signalled; drains it.
  absl::StatusOr<std::unique_ptr<Registration>> BindToThread(int event_fd,
                                                             std::function<void()> deliver);

  Vm vm_;
  const VmWiringOptions options_;
  std::unique_ptr<MsiRouter> own_router_;
  MsiRouter* router_ = nullptr;  // none where messages have no route (Irqchip::kNone)

  absl::Mutex mutex_;
  std::map<uint32_t, std::set<const void*>> asserting_ ABSL_GUARDED_BY(mutex_);  // by GSI
  std::set<uint32_t> edges_ ABSL_GUARDED_BY(mutex_);  // GSIs that have an eventfd
};

}  // namespace vhost::kvm
