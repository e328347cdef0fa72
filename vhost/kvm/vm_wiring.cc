// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/kvm/vm_wiring.h"

#include <cerrno>
#include <optional>
#include <utility>

#include "absl/strings/str_format.h"
#include "kernel-abi/event_fd.h"
#include "kernel-abi/kvm.h"
#include "kernel-abi/system_error.h"
#include "vhost/kvm/routing_table.h"

namespace vhost::kvm {
namespace {

class ThreadRegistration final : public Registration {
 public:
  explicit ThreadRegistration(std::unique_ptr<Watch> watch) : watch_(std::move(watch)) {}
  const char* how() const override { return "thread"; }

 private:
  std::unique_ptr<Watch> watch_;
};

}  // namespace

// One MSI: a GSI and its route, or, where no GSI could be had, a message that the thread sends.
class VmWiring::Vector final : public MsiVector {
 public:
  Vector(VmWiring& wiring, std::optional<uint32_t> gsi) : wiring_(wiring), gsi_(gsi) {}
  ~Vector() override {
    if (gsi_.has_value()) wiring_.router_->Free(*gsi_);
  }

  absl::Status SetMessage(uint64_t address, uint32_t data) override {
    if (gsi_.has_value()) {
      if (absl::Status set = wiring_.router_->SetMessage(*gsi_, address, data); !set.ok()) {
        return set;
      }
    }
    absl::MutexLock lock(&mutex_);
    message_ = Message{.address = address, .data = data};
    return absl::OkStatus();
  }

  absl::StatusOr<std::unique_ptr<Registration>> Bind(int event_fd) override {
    {
      absl::MutexLock lock(&mutex_);
      if (!message_.has_value()) {
        return absl::FailedPreconditionError("an MSI vector is bound before it has a message");
      }
    }
    if (gsi_.has_value()) {
      absl::StatusOr<std::unique_ptr<Registration>> irqfd = MakeIrqFd(wiring_.vm_, *gsi_, event_fd);
      // EAGAIN: there is nobody in the kernel to inject into. Other refusals (an eventfd that is
      // bound already, no memory) would not be mended by a thread.
      if (irqfd.ok() || kernel_abi::GetErrno(irqfd.status()) != EAGAIN) return irqfd;
    }
    return wiring_.BindToThread(event_fd, [this] { Send(); });
  }

  std::optional<uint32_t> gsi() const override { return gsi_; }

 private:
  struct Message {
    uint64_t address;
    uint32_t data;
  };
  void Send() {
    std::optional<Message> message;
    {
      absl::MutexLock lock(&mutex_);
      message = message_;
    }
    // A message that cannot be sent has nobody to be told: the guest wrote it.
    if (message.has_value()) (void)wiring_.SendMsi(message->address, message->data);
  }

  VmWiring& wiring_;
  const std::optional<uint32_t> gsi_;
  absl::Mutex mutex_;
  std::optional<Message> message_ ABSL_GUARDED_BY(mutex_);
};

// The one eventfd at an edge-triggered pin.
class VmWiring::Edge final : public Registration {
 public:
  Edge(VmWiring& wiring, uint32_t gsi, std::unique_ptr<Registration> wired)
      : wiring_(wiring), gsi_(gsi), wired_(std::move(wired)) {}
  ~Edge() override {
    wired_.reset();
    absl::MutexLock lock(&wiring_.mutex_);
    wiring_.edges_.erase(gsi_);
  }
  const char* how() const override { return wired_->how(); }

 private:
  VmWiring& wiring_;
  const uint32_t gsi_;
  std::unique_ptr<Registration> wired_;
};

absl::StatusOr<std::unique_ptr<VmWiring>> VmWiring::Create(kernel_abi::Kernel& kernel, int vm_fd,
                                                           VmWiringOptions options) {
  std::unique_ptr<VmWiring> wiring(new VmWiring(kernel, vm_fd, std::move(options)));
  wiring->router_ = wiring->options_.msi_router;
  if (wiring->router_ != nullptr || wiring->options_.irqchip == Irqchip::kNone) return wiring;
  absl::StatusOr<std::unique_ptr<RoutingTable>> table = RoutingTable::Create(
      kernel, vm_fd,
      wiring->options_.irqchip == Irqchip::kFull ? RoutingTable::FullIrqchipRoutes()
                                                 : std::vector<kvm_irq_routing_entry>());
  if (!table.ok()) return table.status();
  wiring->own_router_ = *std::move(table);
  wiring->router_ = wiring->own_router_.get();
  return wiring;
}

absl::StatusOr<std::unique_ptr<Registration>> VmWiring::BindNotify(const NotifyAddress& address,
                                                                   int event_fd) {
  return MakeIoEventFd(vm_, address, event_fd);
}

absl::StatusOr<std::unique_ptr<MsiVector>> VmWiring::NewMsiVector() {
  if (router_ == nullptr) return std::make_unique<Vector>(*this, std::nullopt);
  const absl::StatusOr<uint32_t> gsi = router_->Allocate();
  if (gsi.ok()) return std::make_unique<Vector>(*this, *gsi);
  if (options_.loop == nullptr) return gsi.status();
  return std::make_unique<Vector>(*this, std::nullopt);
}

absl::StatusOr<std::unique_ptr<Registration>> VmWiring::BindEdge(uint32_t gsi, int event_fd) {
  {
    absl::MutexLock lock(&mutex_);
    if (!edges_.insert(gsi).second) {
      return absl::AlreadyExistsError(
          absl::StrFormat("GSI %u has an eventfd: of two at one pin KVM could lose an edge", gsi));
    }
  }
  absl::StatusOr<std::unique_ptr<Registration>> wired = WireEdge(gsi, event_fd);
  if (!wired.ok()) {
    absl::MutexLock lock(&mutex_);
    edges_.erase(gsi);
    return wired.status();
  }
  return std::make_unique<Edge>(*this, gsi, *std::move(wired));
}

absl::StatusOr<std::unique_ptr<Registration>> VmWiring::WireEdge(uint32_t gsi, int event_fd) {
  // Pins of an I/O APIC that is not in the kernel are no GSIs to KVM.
  if (options_.irqchip == Irqchip::kFull) {
    absl::StatusOr<std::unique_ptr<Registration>> irqfd = MakeIrqFd(vm_, gsi, event_fd);
    if (irqfd.ok() || kernel_abi::GetErrno(irqfd.status()) != EAGAIN) return irqfd;
  }
  return BindToThread(event_fd, [this, gsi] {
    if (DriveLine(gsi, true).ok()) (void)DriveLine(gsi, false);
  });
}

absl::Status VmWiring::SetLine(uint32_t gsi, const void* user, bool asserted) {
  absl::MutexLock lock(&mutex_);
  std::set<const void*>& users = asserting_[gsi];
  const bool was_high = !users.empty();
  if (asserted) {
    users.insert(user);
  } else {
    users.erase(user);
  }
  const bool is_high = !users.empty();
  if (was_high == is_high) return absl::OkStatus();
  absl::Status driven = DriveLine(gsi, is_high);
  if (!driven.ok()) {
    // As before, so that the caller may try again.
    if (asserted) {
      users.erase(user);
    } else {
      users.insert(user);
    }
  }
  return driven;
}

absl::Status VmWiring::DriveLine(uint32_t gsi, bool high) {
  if (options_.drive_line != nullptr) return options_.drive_line(gsi, high);
  kvm_irq_level level{};
  level.irq = gsi;
  level.level = high ? 1 : 0;
  return kernel_abi::Call({vm_.kernel, vm_.fd, "KVM"}, kernel_abi::kKvmIrqLine, level).status();
}

absl::Status VmWiring::SendMsi(uint64_t address, uint32_t data) {
  if (options_.send_msi != nullptr) return options_.send_msi(address, data);
  kvm_msi msi{};
  msi.address_lo = static_cast<uint32_t>(address);
  msi.address_hi = static_cast<uint32_t>(address >> 32);
  msi.data = data;
  return kernel_abi::Call({vm_.kernel, vm_.fd, "KVM"}, kernel_abi::kKvmSignalMsi, msi).status();
}

absl::StatusOr<std::unique_ptr<Registration>> VmWiring::BindToThread(
    int event_fd, std::function<void()> deliver) {
  if (options_.loop == nullptr) {
    return absl::UnavailableError(
        "no irqfd can deliver this interrupt, and the wiring was given no event loop that could");
  }
  absl::StatusOr<std::unique_ptr<Watch>> watch = options_.loop->WatchReadable(
      event_fd, [&kernel = vm_.kernel, event_fd, deliver = std::move(deliver)] {
        if (kernel_abi::EventFd::DrainEventFd(kernel, event_fd)) deliver();
      });
  if (!watch.ok()) return watch.status();
  return std::make_unique<ThreadRegistration>(*std::move(watch));
}

}  // namespace vhost::kvm
