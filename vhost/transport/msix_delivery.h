// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// From eventfds to MSI-X messages. A source is an eventfd that is signalled when the guest should
// be interrupted: one a virtqueue (the call eventfd, which vhost signals), and one for the
// configuration. The driver gives each source a vector; several may share one.
//
//   signal -> eventfd -> Registration (irqfd) -> MsiVector (GSI and its route) -> guest
//
// A source is bound to its vector exactly while the vector sends. While it does not, signals stay
// in the eventfd: that is the pending bit, and binding again delivers it. So masking changes who
// listens to an eventfd, and never the eventfd or whoever signals it.
//
// Thread safety: none; its function locks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernel-abi/kernel.h"
#include "vhost/report.h"
#include "vhost/transport/msix_table.h"
#include "vhost/transport/wiring.h"

namespace vhost {

class MsixDelivery {
 public:
  // `event_fds` are lent, one a source. All start without a vector.
  MsixDelivery(kernel_abi::Kernel& kernel, Wiring& wiring, uint16_t vectors,
               const std::vector<int>& event_fds);

  MsixTable& table() { return table_; }
  const MsixTable& table() const { return table_; }

  uint16_t vector(int source) const { return sources_[static_cast<size_t>(source)].vector; }
  // What the driver wrote. Reads back as kNoVector where there is no such vector, or where the
  // machine has none left: so the driver learns of it (virtio 1.3, 4.1.5.1.2.1).
  void SetVector(int source, uint16_t vector);

  // To call after the table's entry of a vector, or message control, was written.
  void Refresh(uint16_t vector);
  void RefreshAll();

  // The pending bit: a source of the vector was signalled, and the vector may not send.
  bool Pending(uint16_t vector) const;
  // The same as the register block that a driver reads.
  void ReadPending(uint64_t offset, std::span<std::byte> to) const;

  // No source has a vector any more. What was signalled until now is forgotten.
  void Reset();

  // Rows "msix N", one for each source that has a vector.
  void Describe(std::vector<WiringReport>& rows) const;

 private:
  struct Source {
    int event_fd = -1;
    uint16_t vector = kNoVector;
    std::unique_ptr<Registration> binding;
    std::string problem;  // why it should be bound and is not
  };
  struct Vector {
    std::unique_ptr<MsiVector> msi;             // made when the vector is first asked for
    std::optional<MsixTable::Message> message;  // what `msi` sends
  };
  void Apply(Source& source);
  absl::Status BindSource(Source& source);

  kernel_abi::Kernel& kernel_;
  Wiring& wiring_;
  MsixTable table_;
  std::vector<Vector> vectors_;
  std::vector<Source> sources_;
};

}  // namespace vhost
