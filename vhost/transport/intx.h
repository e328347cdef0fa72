// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The PCI interrupt pin, and the ISR status register that tells a driver why it was raised (virtio
// 1.3, 4.1.4.5). It is the way in which a guest without MSI-X is interrupted: a thread waits for
// the eventfds that an irqfd would take. An irqfd cannot serve here, because the driver reads from
// the register whether the interrupt was this device's, and whoever serves the ring (vhost) cannot
// write that register.
//
//   call eventfd -> event loop -> Signalled(): drain it, ISR bit, line up
//   the driver reads ISR       -> ReadIsr(): ISR clear, line down
//
// Thread safety: its function locks, except for NoteConfigChange().
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "kernel-abi/kernel.h"
#include "vhost/event_loop.h"
#include "vhost/report.h"
#include "vhost/transport/wiring.h"

namespace vhost {

class Intx {
 public:
  using Watches = std::vector<std::unique_ptr<Watch>>;

  // `gsi`: the line of the function's pin; none if it has no pin. `event_fds` are lent: one a
  // queue, then that of the configuration.
  Intx(kernel_abi::Kernel& kernel, Wiring& wiring, EventLoop& loop, std::optional<uint32_t> gsi,
       std::vector<int> event_fds);
  ~Intx();

  // Whether interrupts go by the line: MSI-X is off and the driver is there. `signalled` is called
  // on the event loop's thread, takes the function's lock, and calls Signalled(). Returns the
  // watches that are to be destroyed, which must happen without that lock.
  [[nodiscard]] Watches SetActive(bool active, const std::function<void(size_t)>& signalled);
  void Signalled(size_t event_fd);
  // The command register's interrupt disable bit: the line stays down, the condition stays.
  void SetDisabled(bool disabled);

  // Sets the ISR's configuration bit, from any thread and without a lock. The configuration's
  // eventfd is to be signalled after it: a driver that is interrupted must find the bit.
  void NoteConfigChange() { isr_.fetch_or(kIsrConfig, std::memory_order_release); }
  // What the driver reads from ISR status; reading clears it and lowers the line.
  uint8_t ReadIsr();

  // An interrupt is asserted, or would be if it was not disabled (PCI status bit 3).
  bool pending() const { return pending_; }
  bool active() const { return !watches_.empty(); }

  // As after power-on, except that it stays active if it is.
  void Reset();

  // A row "intx", if there is a pin.
  void Describe(std::vector<WiringReport>& rows) const;

  static constexpr uint8_t kIsrQueue = 1;
  static constexpr uint8_t kIsrConfig = 2;

 private:
  void UpdateLine();

  kernel_abi::Kernel& kernel_;
  Wiring& wiring_;
  EventLoop& loop_;
  const std::optional<uint32_t> gsi_;
  const std::vector<int> event_fds_;
  std::atomic<uint8_t> isr_ = 0;
  Watches watches_;
  // Raised by a signal while active, and not simply "isr is not 0": with MSI-X the configuration
  // bit is set as well, and nobody reads it.
  bool pending_ = false;
  bool disabled_ = false;
  bool raised_ = false;  // what the line was last set to
  std::string problem_;
};

}  // namespace vhost
