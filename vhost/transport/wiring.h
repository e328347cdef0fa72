// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What a transport needs of the machine around it so that notifications and interrupts bypass it.
// vhost/kvm/ implements this with ioeventfd, irqfd and MSI routes; a VMM with wiring of its own
// implements it with that; tests implement it with lists.
//
// Thread safety: any thread; the objects returned may be used and destroyed from any thread, one
// call at a time each, and before the Wiring. Transports call with a lock of their own held, so an
// implementation must not call back into a transport nor wait for a thread that does.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace vhost {

// A register whose writes notify a queue.
struct NotifyAddress {
  enum class Space : uint8_t { kMmio, kPio };
  Space space = Space::kMmio;
  uint64_t address = 0;
  uint32_t length = 0;  // bytes of the write: 1, 2, 4, 8; 0: any (MMIO only, and fastest)
  std::optional<uint64_t> datamatch;  // only writes of this value
};

// Something registered with the machine, undone when the object goes.
class Registration {
 public:
  virtual ~Registration() = default;
  // How it is done: "ioeventfd", "irqfd", "thread".
  virtual const char* how() const = 0;
};

// One message-signalled interrupt: an entry of an MSI-X table, or one MSI.
class MsiVector {
 public:
  virtual ~MsiVector() = default;
  // What is sent from now on. Takes effect before it returns.
  virtual absl::Status SetMessage(uint64_t address, uint32_t data) = 0;
  // Sends the message whenever `event_fd` is signalled, at once if it is already. The fd is lent
  // until the registration goes; a signal that comes after that stays in the eventfd and is
  // delivered by the next Bind, so unbinding is masking, and the eventfd is the pending bit.
  // One eventfd may be bound to one vector at a time; a vector may have many eventfds.
  // FAILED_PRECONDITION before the first SetMessage: the signal would be lost. Registrations go
  // before their vector.
  virtual absl::StatusOr<std::unique_ptr<Registration>> Bind(int event_fd) = 0;
  // The GSI that carries it, if one does.
  virtual std::optional<uint32_t> gsi() const = 0;
};

class Wiring {
 public:
  virtual ~Wiring() = default;
  // A guest's write to `address` signals `event_fd` without an exit.
  virtual absl::StatusOr<std::unique_ptr<Registration>> BindNotify(const NotifyAddress& address,
                                                                   int event_fd) = 0;
  virtual absl::StatusOr<std::unique_ptr<MsiVector>> NewMsiVector() = 0;
  // Each signal of `event_fd` is one pulse of the edge-triggered interrupt `gsi` (virtio-mmio).
  // One eventfd a GSI (ALREADY_EXISTS): KVM raises and lowers a pin in two steps, and the edge of a
  // second irqfd that comes between them would be lost, and the guest with it.
  virtual absl::StatusOr<std::unique_ptr<Registration>> BindEdge(uint32_t gsi, int event_fd) = 0;
  // Sets a level-triggered interrupt line (PCI INTx). Lines may be shared: the line is asserted
  // while any of its users asserts it, which is the implementation's to keep.
  virtual absl::Status SetLine(uint32_t gsi, const void* user, bool asserted) = 0;
};

}  // namespace vhost
