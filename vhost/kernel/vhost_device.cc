// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/kernel/vhost_device.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "kernel-abi/system_error.h"

namespace vhost {
namespace {

// vhost takes a split ring's base as 16 bits; a packed one's has two halves.
constexpr VringBase kMaxSplitBase = 0xffff;

// To the kernel a region is three numbers; which memfd is behind it does not matter to it.
bool SameToKernel(const MemoryTable& a, const MemoryTable& b) {
  return std::ranges::equal(a.merged(), b.merged(), [](const auto& left, const auto& right) {
    return left.start == right.start && left.size == right.size && left.host == right.host;
  });
}

bool SamePlace(const Vring& a, const Vring& b) {
  return a.size() == b.size() && a.layout() == b.layout() && a.desc() == b.desc() &&
         a.driver() == b.driver() && a.device() == b.device() && a.setup().desc == b.setup().desc &&
         a.setup().driver == b.setup().driver && a.setup().device == b.setup().device;
}

absl::Status Moved(absl::string_view device, uint32_t index, const Vring& vring) {
  return absl::FailedPreconditionError(
      absl::StrCat(device, ": vring ", index, " (descriptors at guest address ",
                   Describe(vring.setup().desc), ") is not where it was in this memory table"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<VhostDevice>> VhostDevice::Create(kernel_abi::Kernel& kernel,
                                                                 VhostOps& ops,
                                                                 VringAttachment& attachment,
                                                                 uint32_t vring_count,
                                                                 uint32_t busyloop_us) {
  std::vector<Slot> slots;
  slots.reserve(vring_count);
  for (uint32_t i = 0; i < vring_count; ++i) {
    absl::StatusOr<kernel_abi::EventFd> error = kernel_abi::EventFd::Create(kernel);
    if (!error.ok()) return kernel_abi::AddContext(error.status(), ops.name());
    slots.push_back({.error = *std::move(error)});
  }
  return absl::WrapUnique(new VhostDevice(kernel, ops, attachment, std::move(slots), busyloop_us));
}

VhostDevice::~VhostDevice() { Stop(); }

absl::Status VhostDevice::CheckVrings(const std::shared_ptr<const MemoryTable>& memory,
                                      std::span<const VhostVring> vrings) const {
  for (size_t i = 0; i < vrings.size(); ++i) {
    const VhostVring& vring = vrings[i];
    const auto refuse = [&](auto... why) {
      return absl::InvalidArgumentError(
          absl::StrCat(ops_->name(), ": vring ", vring.index, ": ", why...));
    };
    if (vring.index >= slots_.size()) return refuse("the device has only ", slots_.size());
    const bool twice = std::ranges::any_of(
        vrings.first(i), [&](const VhostVring& other) { return other.index == vring.index; });
    if (slots_[vring.index].ring.has_value() || twice) {
      return absl::FailedPreconditionError(
          absl::StrCat(ops_->name(), ": vring ", vring.index, " is in use already"));
    }
    if (vring.kick_fd < 0) return refuse("has no kick eventfd");
    if (vring.vring.layout() == VringLayout::kSplit && vring.base > kMaxSplitBase) {
      return refuse("base ", vring.base, " is beyond 65535");
    }
    const Slot& slot = slots_[vring.index];
    const bool is_known =
        slot.place_is_checked && memory == table_ && SamePlace(*slot.place, vring.vring);
    // The addresses that the kernel gets are host addresses, and it takes any.
    if (!is_known && !vring.vring.SamePlaceIn(*memory))
      return Moved(ops_->name(), vring.index, vring.vring);
  }
  return absl::OkStatus();
}

absl::Status VhostDevice::Announce(VhostFeatures features,
                                   const std::shared_ptr<const MemoryTable>& memory,
                                   std::span<const VhostVring> vrings) {
  if (!given_up_.ok()) return given_up_;
  if (absl::Status status = CheckVrings(memory, vrings); !status.ok()) return status;
  if (features_ != features) {
    // The kernel would take other features under running rings as well, and change the header's
    // size in the middle of traffic.
    if (!SetUpVrings().empty()) {
      return absl::FailedPreconditionError(
          absl::StrCat(ops_->name(), ": features cannot change while rings are served"));
    }
    if (absl::Status status = ops_->SetFeatures(features); !status.ok()) return status;
    features_ = features;
  }
  if (absl::Status status = SendTable(memory); !status.ok()) return status;
  for (const VhostVring& vring : vrings) {
    if (absl::Status status = Place(vring); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status VhostDevice::Place(const VhostVring& vring) {
  Slot& slot = slots_[vring.index];
  if (!slot.place.has_value() || !SamePlace(*slot.place, vring.vring)) {
    slot.place.reset();
    slot.place_is_checked = false;
    absl::Status status = ops_->SetVringSize(vring.index, vring.vring.size());
    if (!status.ok()) {
      // A ring that this object knows to be idle, and the kernel calls busy.
      return kernel_abi::GetErrno(status) == EBUSY
                 ? kernel_abi::AddAdvice(status, "the fd was handed in with this ring being served")
                 : status;
    }
    status = ops_->SetVringAddresses(
        vring.index,
        {.desc = vring.vring.desc(), .avail = vring.vring.driver(), .used = vring.vring.device()});
    if (!status.ok()) return status;
    slot.place = vring.vring;
  }
  slot.place_is_checked = true;
  if (slot.error_is_set) return absl::OkStatus();
  absl::Status status = ops_->SetVringErr(vring.index, slot.error.get());
  if (status.ok() && busyloop_us_ > 0) {
    status = ops_->SetVringBusyloop(vring.index, busyloop_us_);
  }
  slot.error_is_set = status.ok();
  return status;
}

void VhostDevice::DrainErrors(std::span<const VhostVring> vrings) {
  absl::InlinedVector<int, 4> fds;
  for (const VhostVring& vring : vrings) fds.push_back(slots_[vring.index].error.get());
  kernel_abi::EventFd::DrainEventFds(*kernel_, fds);
}

absl::Status VhostDevice::Prepare(VhostFeatures features,
                                  const std::shared_ptr<const MemoryTable>& memory,
                                  std::span<const VhostVring> vrings) {
  if (absl::Status status = Announce(features, memory, vrings); !status.ok()) return status;
  // Whatever the last start left in them is of the past.
  if (was_served_) DrainErrors(vrings);
  VringIndexList done;
  absl::Cleanup undo = [&] {
    while (!done.empty()) {
      TakeDown(done.back());
      done.pop_back();
    }
  };
  for (const VhostVring& vring : vrings) {
    if (absl::Status status = SetUp(vring); !status.ok()) return status;
    done.push_back(vring.index);
  }
  std::move(undo).Cancel();
  return absl::OkStatus();
}

absl::Status VhostDevice::SetUp(const VhostVring& vring) {
  const uint32_t index = vring.index;
  Slot& slot = slots_[index];
  absl::Status status = ops_->SetVringBase(index, vring.base);
  if (!status.ok()) return status;
  if (vring.call_fd >= 0) {
    status = ops_->SetVringCall(index, vring.call_fd);
    if (!status.ok()) return status;
  }
  // Last, because the kernel looks at the eventfd at once.
  status = ops_->SetVringKick(index, vring.kick_fd);
  if (!status.ok()) {
    if (vring.call_fd >= 0) {
      if (absl::Status undo = ops_->SetVringCall(index, -1); !undo.ok()) GiveUp(undo);
    }
    return status;
  }
  slot.ring = Ring{
      .vring = vring.vring, .kick_fd = vring.kick_fd, .call_fd = vring.call_fd, .served = false};
  return absl::OkStatus();
}

absl::Status VhostDevice::Attach() {
  if (!given_up_.ok()) return given_up_;
  was_served_ = true;
  VringIndexList attached;
  if (absl::Status status = AttachAll(attached); !status.ok()) {
    Detach(attached);
    return status;
  }
  // A spurious kick or call is legal, a lost one is a hang: what the driver or the previous backend
  // signalled while nobody listened may never be signalled again.
  for (uint32_t index : attached) {
    const Ring& ring = *slots_[index].ring;
    kernel_abi::EventFd::SignalEventFd(*kernel_, ring.kick_fd);
    if (ring.call_fd >= 0) kernel_abi::EventFd::SignalEventFd(*kernel_, ring.call_fd);
  }
  return absl::OkStatus();
}

absl::Status VhostDevice::AttachAll(VringIndexList& attached) {
  VringIndexList ready;
  for (uint32_t i = 0; i < slots_.size(); ++i) {
    if (is_set_up(i) && !is_served(i)) ready.push_back(i);
  }
  if (attachment_->all_at_once() && !ready.empty()) {
    if (ready.size() < slots_.size()) return absl::OkStatus();
    if (absl::Status status = attachment_->Attach(0); !status.ok()) return status;
  }
  for (uint32_t index : ready) {
    Ring& ring = *slots_[index].ring;
    if (!attachment_->all_at_once()) {
      if (absl::Status status = attachment_->Attach(index); !status.ok()) return status;
    }
    ring.served = true;
    attached.push_back(index);
  }
  return absl::OkStatus();
}

void VhostDevice::Detach(std::span<const uint32_t> indices) {
  const bool all_at_once = attachment_->all_at_once();
  for (uint32_t index : indices) {
    const bool told = all_at_once && index != indices.front();
    if (given_up_.ok() && !told) {
      const absl::Status status = attachment_->Detach(all_at_once ? 0 : index);
      if (!status.ok()) GiveUp(status);
    }
    slots_[index].ring->served = false;
  }
}

VringBase VhostDevice::BaseOf(uint32_t index) {
  if (given_up_.ok()) {
    if (absl::StatusOr<uint32_t> base = ops_->GetVringBase(index); base.ok()) return *base;
  }
  // All that was taken has been used by a device that stands still, in both directions and in
  // order: the used index is where the driver must be gone on with.
  const Vring& vring = slots_[index].ring->vring;
  return vring.layout() == VringLayout::kSplit ? ReadIndices(vring).used : 0;
}

void VhostDevice::TakeDown(uint32_t index) {
  Slot& slot = slots_[index];
  if (given_up_.ok()) {
    absl::Status status = ops_->SetVringKick(index, -1);
    if (status.ok() && slot.ring->call_fd >= 0) status = ops_->SetVringCall(index, -1);
    if (!status.ok()) GiveUp(status);
  }
  slot.ring.reset();
  if (!ops_->forgets_stopped_rings()) return;
  slot.place.reset();
  slot.place_is_checked = false;
}

StoppedVringList VhostDevice::Suspend() {
  Detach(ServedVrings());
  StoppedVringList stopped;
  for (uint32_t index : SetUpVrings()) stopped.push_back({index, BaseOf(index)});
  return stopped;
}

void VhostDevice::TakeDownAll() {
  for (uint32_t index : SetUpVrings()) TakeDown(index);
}

StoppedVringList VhostDevice::Stop() {
  StoppedVringList stopped = Suspend();
  TakeDownAll();
  return stopped;
}

absl::StatusOr<VringBase> VhostDevice::StopVring(uint32_t index) {
  if (index >= slots_.size() || !slots_[index].ring.has_value()) {
    return absl::NotFoundError(absl::StrCat(ops_->name(), ": vring ", index, " is not in use"));
  }
  if (slots_[index].ring->served) {
    // Where all are served or none, the others stay set up, and are served again with this one.
    if (attachment_->all_at_once()) {
      Detach(ServedVrings());
    } else {
      Detach({&index, 1});
    }
  }
  const VringBase base = BaseOf(index);
  TakeDown(index);
  return base;
}

absl::Status VhostDevice::SendTable(const std::shared_ptr<const MemoryTable>& memory) {
  if (table_ == memory) return absl::OkStatus();
  for (Slot& slot : slots_) slot.place_is_checked = false;
  if (table_ != nullptr && SameToKernel(*table_, *memory)) {
    table_ = memory;
    return absl::OkStatus();
  }
  if (absl::Status status = ops_->SetMemoryTable(memory->merged()); !status.ok()) return status;
  ++memory_updates_;
  table_ = memory;
  return absl::OkStatus();
}

absl::Status VhostDevice::SetMemory(const std::shared_ptr<const MemoryTable>& memory) {
  if (!given_up_.ok()) return given_up_;
  bool is_idle = true;
  for (uint32_t index = 0; index < vring_count(); ++index) {
    if (!is_set_up(index)) continue;
    is_idle = false;
    // The kernel takes a table that has lost a running ring, and goes on with the addresses that
    // it has.
    const Vring& vring = slots_[index].ring->vring;
    if (!vring.SamePlaceIn(*memory)) return Moved(ops_->name(), index, vring);
  }
  // An idle device looks at no memory, so it need not be told before it looks again.
  if (is_idle) return absl::OkStatus();
  return SendTable(memory);
}

absl::Status VhostDevice::SetCall(uint32_t index, int call_fd) {
  if (!given_up_.ok()) return given_up_;
  if (index >= slots_.size()) {
    return absl::InvalidArgumentError(absl::StrCat(ops_->name(), ": there is no vring ", index));
  }
  std::optional<Ring>& ring = slots_[index].ring;
  if (!ring.has_value()) return absl::OkStatus();  // It is given one when it is set up.
  if (absl::Status status = ops_->SetVringCall(index, call_fd); !status.ok()) return status;
  ring->call_fd = call_fd;
  return absl::OkStatus();
}

BackendVringReport VhostDevice::Report(uint32_t index) const {
  const Slot& slot = slots_[index];
  BackendVringReport report{
      .vhost_index = index, .err_fd = slot.error.get(), .errors = slot.errors};
  if (busyloop_us_ > 0) report.busyloop_us = busyloop_us_;
  if (!slot.ring.has_value()) return report;
  report.kick_fd = slot.ring->kick_fd;
  report.call_fd = slot.ring->call_fd;
  const absl::StatusOr<uint32_t> base = ops_->GetVringBase(index);
  if (base.ok()) report.last_avail = static_cast<uint16_t>(*base);
  return report;
}

VringIndexList VhostDevice::SetUpVrings() const {
  VringIndexList indices;
  for (uint32_t i = 0; i < slots_.size(); ++i) {
    if (is_set_up(i)) indices.push_back(i);
  }
  return indices;
}

VringIndexList VhostDevice::ServedVrings() const {
  VringIndexList indices;
  for (uint32_t i = 0; i < slots_.size(); ++i) {
    if (is_served(i)) indices.push_back(i);
  }
  return indices;
}

void VhostDevice::GiveUp(const absl::Status& why) {
  if (!given_up_.ok()) return;
  given_up_ = kernel_abi::AddContext(
      why, absl::StrCat(ops_->name(), " did not stop and was closed; make the device anew"));
  ops_->Close();
}

}  // namespace vhost
