// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/transport/queue_notifiers.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace vhost {

QueueNotifiers::QueueNotifiers(Wiring& wiring, Device& device)
    : wiring_(wiring), device_(device), queues_(static_cast<size_t>(device.queue_count())) {}

void QueueNotifiers::BindAt(const NotifyAddress& first, uint32_t stride) {
  if (address_ == first.address) return;
  Unbind();
  address_ = first.address;
  for (size_t i = 0; i < queues_.size(); ++i) {
    Queue& queue = queues_[i];
    queue.address = first;
    queue.address.address += i * stride;
    if (queue.address.datamatch.has_value()) *queue.address.datamatch += i;
    absl::StatusOr<std::unique_ptr<Registration>> binding =
        wiring_.BindNotify(queue.address, device_.kick_fd(static_cast<int>(i)));
    if (binding.ok()) {
      queue.binding = *std::move(binding);
      queue.problem.clear();
    } else {
      queue.problem = std::string(binding.status().message());
    }
  }
}

void QueueNotifiers::Unbind() {
  for (Queue& queue : queues_) queue.binding.reset();
  address_.reset();
}

void QueueNotifiers::Notify(uint64_t queue) {
  if (queue >= queues_.size()) return;
  queues_[queue].exits.fetch_add(1, std::memory_order_relaxed);
  device_.Notify(static_cast<int>(queue));
}

void QueueNotifiers::Describe(absl::string_view what, std::vector<WiringReport>& rows) const {
  for (size_t i = 0; i < queues_.size(); ++i) {
    const Queue& queue = queues_[i];
    WiringReport row;
    row.what = absl::StrCat(what, " ", i);
    row.how = queue.binding != nullptr ? queue.binding->how() : "exit";
    if (address_.has_value()) row.address = queue.address.address;
    if (queue.address.datamatch.has_value()) {
      row.data = static_cast<uint32_t>(*queue.address.datamatch);
    }
    row.event_fd = device_.kick_fd(static_cast<int>(i));
    row.queue = static_cast<uint16_t>(i);
    row.exits = queue.exits.load(std::memory_order_relaxed);
    row.problem = queue.problem;
    rows.push_back(std::move(row));
  }
}

}  // namespace vhost
