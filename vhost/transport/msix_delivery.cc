// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/transport/msix_delivery.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernel-abi/event_fd.h"

namespace vhost {

MsixDelivery::MsixDelivery(kernel_abi::Kernel& kernel, Wiring& wiring, uint16_t vectors,
                           const std::vector<int>& event_fds)
    : kernel_(kernel), wiring_(wiring), table_(vectors), vectors_(vectors) {
  for (int fd : event_fds) sources_.push_back({.event_fd = fd});
}

void MsixDelivery::SetVector(int source_index, uint16_t vector) {
  Source& source = sources_[static_cast<size_t>(source_index)];
  if (vector >= table_.size()) vector = kNoVector;
  if (vector != kNoVector && vectors_[vector].msi == nullptr) {
    absl::StatusOr<std::unique_ptr<MsiVector>> msi = wiring_.NewMsiVector();
    if (msi.ok()) {
      vectors_[vector].msi = *std::move(msi);
    } else {
      source.problem = std::string(msi.status().message());
      vector = kNoVector;
    }
  }
  if (vector == source.vector) return;
  source.binding.reset();
  source.vector = vector;
  Apply(source);
}

void MsixDelivery::Refresh(uint16_t vector) {
  if (vector >= table_.size()) return;
  // A message that changes while it is sent takes effect at once: the route is the vector's, and
  // the sources stay bound to it.
  Vector& changed = vectors_[vector];
  if (table_.Sends(vector) && changed.msi != nullptr && changed.message.has_value() &&
      changed.message != table_.message(vector)) {
    const MsixTable::Message message = table_.message(vector);
    // Where that fails the sources lose their bindings, so that Apply tries again and says why.
    changed.message.reset();
    if (changed.msi->SetMessage(message.address, message.data).ok()) {
      changed.message = message;
    } else {
      for (Source& source : sources_) {
        if (source.vector == vector) source.binding.reset();
      }
    }
  }
  for (Source& source : sources_) {
    if (source.vector == vector) Apply(source);
  }
}

void MsixDelivery::RefreshAll() {
  for (uint16_t vector = 0; vector < table_.size(); ++vector) Refresh(vector);
}

void MsixDelivery::Apply(Source& source) {
  if (!table_.Sends(source.vector)) {
    source.binding.reset();
    return;
  }
  if (source.binding != nullptr) return;
  const absl::Status bound = BindSource(source);
  source.problem = std::string(bound.message());
}

absl::Status MsixDelivery::BindSource(Source& source) {
  Vector& vector = vectors_[source.vector];
  const MsixTable::Message message = table_.message(source.vector);
  // The route comes before the irqfd: a signal that finds no route is lost.
  if (vector.message != message) {
    if (absl::Status set = vector.msi->SetMessage(message.address, message.data); !set.ok()) {
      return set;
    }
    vector.message = message;
  }
  absl::StatusOr<std::unique_ptr<Registration>> binding = vector.msi->Bind(source.event_fd);
  if (!binding.ok()) return binding.status();
  source.binding = *std::move(binding);
  return absl::OkStatus();
}

bool MsixDelivery::Pending(uint16_t vector) const {
  if (!table_.enabled() || table_.Sends(vector)) return false;
  for (const Source& source : sources_) {
    if (source.vector == vector && kernel_abi::EventFd::IsEventFdSignalled(source.event_fd)) {
      return true;
    }
  }
  return false;
}

void MsixDelivery::ReadPending(uint64_t offset, std::span<std::byte> to) const {
  table_.ReadPending(offset, to, [this](uint16_t vector) { return Pending(vector); });
}

void MsixDelivery::Reset() {
  for (Source& source : sources_) {
    source.binding.reset();
    source.vector = kNoVector;
    source.problem.clear();
    kernel_abi::EventFd::DrainEventFd(kernel_, source.event_fd);
  }
}

void MsixDelivery::Describe(std::vector<WiringReport>& rows) const {
  for (size_t i = 0; i < sources_.size(); ++i) {
    const Source& source = sources_[i];
    if (source.vector == kNoVector && source.problem.empty()) continue;
    WiringReport row;
    row.what = source.vector == kNoVector ? "msix" : absl::StrCat("msix ", source.vector);
    row.how = source.binding != nullptr ? source.binding->how() : "none";
    row.event_fd = source.event_fd;
    row.problem = source.problem;
    // The last source is the configuration's.
    if (i + 1 < sources_.size()) row.queue = static_cast<uint16_t>(i);
    if (source.vector != kNoVector) {
      const MsixTable::Message message = table_.message(source.vector);
      row.address = message.address;
      row.data = message.data;
      row.gsi = vectors_[source.vector].msi->gsi();
      row.masked = !table_.Sends(source.vector);
      row.pending = Pending(source.vector);
    }
    rows.push_back(std::move(row));
  }
}

}  // namespace vhost
