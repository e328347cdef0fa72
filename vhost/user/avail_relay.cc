// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/user/avail_relay.h"

#include <poll.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>

#include "absl/strings/str_cat.h"
#include "kernel-abi/system_error.h"
#include "kernel-abi/virtio.h"

namespace vhost::user {
namespace {

using kernel_abi::EventFd;

// Where the rings are for the back end: no guest has memory there.
constexpr uint64_t kStart = uint64_t{1} << 46;
// Of one queue: flags, index, entries, event word.
constexpr size_t kRingBytes = 68 * 1024;
static_assert(kRingBytes >= sizeof(uint16_t) * (kMaxQueueSize + 3) && kRingBytes % 4096 == 0);
// Looks at one ring before others have their turn.
constexpr int kMostLooks = 16;

std::atomic_ref<uint16_t> Word(std::byte* at) {
  return std::atomic_ref<uint16_t>(*reinterpret_cast<uint16_t*>(at));
}
std::atomic_ref<uint16_t> AvailIndex(std::byte* ring) { return Word(ring + 2); }
std::atomic_ref<uint16_t> AvailEntry(std::byte* ring, uint16_t index, uint16_t size) {
  return Word(ring + sizeof(kernel_abi::VirtqRingHeader) + sizeof(uint16_t) * (index % size));
}
std::atomic_ref<uint16_t> UsedIndex(const Vring& vring) { return Word(vring.device() + 2); }
std::byte* UsedEntry(const Vring& vring, uint16_t index) {
  return vring.device() + sizeof(kernel_abi::VirtqRingHeader) +
         sizeof(kernel_abi::VirtqUsedElem) * (index % vring.size());
}
std::atomic_ref<uint16_t> AvailEvent(const Vring& vring) {
  return Word(vring.device() + sizeof(kernel_abi::VirtqRingHeader) +
              sizeof(kernel_abi::VirtqUsedElem) * vring.size());
}

}  // namespace

absl::StatusOr<std::unique_ptr<AvailRelay>> AvailRelay::Create(kernel_abi::Kernel& kernel,
                                                               int queues,
                                                               std::vector<int> error_fds) {
  std::vector<EventFd> events;
  for (int i = 0; i <= queues; ++i) {
    absl::StatusOr<EventFd> event = EventFd::Create(kernel);
    if (!event.ok()) return event.status();
    events.push_back(*std::move(event));
  }
  EventFd wake = std::move(events.back());
  events.pop_back();
  const auto failure = [](const char* call, int error) {
    return kernel_abi::MakeSystemError(
        {.error = error, .subject = "memory for requests in flight", .call = call});
  };
  const size_t bytes = kRingBytes * static_cast<size_t>(queues);
  const int fd = kernel.MemFd("in-flight", 0);
  if (fd < 0) return failure("memfd_create", -fd);
  kernel_abi::UniqueFd memfd(fd);
  int result = kernel.Truncate(fd, static_cast<off_t>(bytes));
  if (result < 0) return failure("ftruncate", -result);
  void* mapping = nullptr;
  result = kernel.Map(bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0, &mapping);
  if (result < 0) return failure("mmap", -result);
  std::unique_ptr<AvailRelay> relay(
      new AvailRelay(kernel, std::move(memfd), static_cast<std::byte*>(mapping), std::move(events),
                     std::move(wake), std::move(error_fds)));
  relay->thread_ = std::thread([raw = relay.get()] { raw->Loop(); });
  return relay;
}

AvailRelay::~AvailRelay() {
  if (thread_.joinable()) {
    {
      absl::MutexLock lock(&mutex_);
      ending_ = true;
    }
    wake_.Signal();
    thread_.join();
  }
  kernel_.Unmap(mapping_, bytes());
}

size_t AvailRelay::bytes() const { return kRingBytes * kicks_.size(); }
std::byte* AvailRelay::Shadow(int queue) const {
  return mapping_ + kRingBytes * static_cast<size_t>(queue);
}

absl::StatusOr<std::shared_ptr<const MemoryTable>> AvailRelay::WithRings(
    const MemoryTable& guest) const {
  std::vector<MemoryRegion> regions(guest.regions().begin(), guest.regions().end());
  regions.push_back({.start = GuestAddress{kStart},
                     .size = bytes(),
                     .host = mapping_,
                     .memfd = memfd_.get(),
                     .memfd_offset = 0});
  absl::StatusOr<MemoryTable> table = MemoryTable::Create(std::move(regions));
  if (!table.ok()) return table.status();
  return std::make_shared<const MemoryTable>(*std::move(table));
}

void AvailRelay::Add(const BackendVring& vring) {
  {
    absl::MutexLock lock(&mutex_);
    const auto base = static_cast<uint16_t>(vring.base);
    Ring ring{.guest = vring.vring,
              .kick_fd = vring.kick_fd,
              .next = base,
              .seen_used = UsedIndex(vring.vring).load(std::memory_order_acquire),
              .in_flight = std::vector<uint64_t>(vring.vring.size())};
    std::byte* shadow = Shadow(vring.queue);
    Word(shadow).store(0, std::memory_order_relaxed);
    AvailIndex(shadow).store(base, std::memory_order_release);
    rings_.insert_or_assign(vring.queue, std::move(ring));
  }
  wake_.Signal();
}

void AvailRelay::Remove(int queue) {
  {
    absl::MutexLock lock(&mutex_);
    rings_.erase(queue);
  }
  // The thread must not wait for its eventfd any more: see Loop.
  wake_.Signal();
}

absl::StatusOr<BackendVring> AvailRelay::ForBackEnd(const BackendVring& vring,
                                                    const MemoryTable& memory) const {
  VringSetup setup = vring.vring.setup();
  setup.driver = GuestAddress{kStart + kRingBytes * static_cast<uint64_t>(vring.queue)};
  absl::StatusOr<Vring> ours = Vring::Create(setup, VringLayout::kSplit, memory);
  if (!ours.ok()) return ours.status();
  BackendVring result = vring;
  result.vring = *ours;
  result.kick_fd = kicks_[static_cast<size_t>(vring.queue)].get();
  return result;
}

absl::StatusOr<VringBase> AvailRelay::Rewind(int queue) {
  absl::MutexLock lock(&mutex_);
  const auto found = rings_.find(queue);
  if (found == rings_.end()) return absl::NotFoundError(absl::StrCat("queue ", queue));
  Ring& ring = found->second;
  NoteUsed(ring);
  std::vector<std::pair<uint64_t, uint16_t>> waiting;  // when it came, and its head
  for (size_t head = 0; head < ring.in_flight.size(); ++head) {
    if (ring.in_flight[head] != 0) {
      waiting.emplace_back(ring.in_flight[head], static_cast<uint16_t>(head));
    }
  }
  const auto pending = static_cast<uint16_t>(ring.next - ring.seen_used);
  if (ring.is_broken || waiting.size() != pending) {
    Break(queue, ring);
    return absl::DataLossError(absl::StrCat(
        "queue ", queue, ": the back end has returned requests that it was not given"));
  }
  std::ranges::sort(waiting);
  uint16_t at = ring.seen_used;
  for (const auto& [order, head] : waiting) {
    AvailEntry(Shadow(queue), at++, ring.guest.size()).store(head, std::memory_order_relaxed);
  }
  AvailIndex(Shadow(queue)).store(ring.next, std::memory_order_release);
  return ring.seen_used;
}

void AvailRelay::Break(int queue, Ring& ring) {
  if (ring.is_broken) return;
  ring.is_broken = true;
  EventFd::SignalEventFd(kernel_, error_fds_[static_cast<size_t>(queue)]);
}

void AvailRelay::NoteUsed(Ring& ring) {
  const uint16_t used = UsedIndex(ring.guest).load(std::memory_order_acquire);
  // One that has returned more than there can be has lied: Rewind finds that the sums are wrong.
  const uint16_t count = static_cast<uint16_t>(used - ring.seen_used);
  if (count > ring.guest.size()) {
    ring.is_broken = true;
    return;
  }
  for (; ring.seen_used != used; ++ring.seen_used) {
    const uint32_t head = std::atomic_ref<uint32_t>(
                              *reinterpret_cast<uint32_t*>(UsedEntry(ring.guest, ring.seen_used)))
                              .load(std::memory_order_relaxed);
    if (head < ring.in_flight.size()) ring.in_flight[head] = 0;
  }
}

bool AvailRelay::Relay(int queue, Ring& ring) {
  const uint16_t size = ring.guest.size();
  bool has_copied = false;
  bool is_done = false;
  for (int look = 0; look < kMostLooks && !is_done && !ring.is_broken; ++look) {
    // First what has come back: the driver may have made the same head available again.
    const uint16_t avail = AvailIndex(ring.guest.driver()).load(std::memory_order_acquire);
    NoteUsed(ring);
    if (static_cast<uint16_t>(avail - ring.next) > size) Break(queue, ring);
    while (ring.next != avail && !ring.is_broken) {
      const uint16_t head =
          AvailEntry(ring.guest.driver(), ring.next, size).load(std::memory_order_relaxed);
      if (head >= size || ring.in_flight[head] != 0) {
        Break(queue, ring);
        break;
      }
      ring.in_flight[head] = ++ring.order;
      AvailEntry(Shadow(queue), ring.next, size).store(head, std::memory_order_relaxed);
      ++ring.next;
      has_copied = true;
    }
    AvailIndex(Shadow(queue)).store(ring.next, std::memory_order_release);
    // The driver kicks when it goes beyond this (virtio 1.3, 2.7.10). Then look once more: it may
    // have gone on before it saw that.
    AvailEvent(ring.guest).store(ring.next, std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    is_done = AvailIndex(ring.guest.driver()).load(std::memory_order_relaxed) == ring.next;
  }
  if (has_copied) kicks_[static_cast<size_t>(queue)].Signal();
  return is_done || ring.is_broken;
}

void AvailRelay::Loop() {
  std::vector<pollfd> entries;
  bool is_done = true;
  while (true) {
    entries.clear();
    entries.push_back({.fd = wake_.get(), .events = POLLIN, .revents = 0});
    {
      absl::MutexLock lock(&mutex_);
      if (ending_) return;
      for (const auto& [queue, ring] : rings_) {
        if (!ring.is_broken)
          entries.push_back({.fd = ring.kick_fd, .events = POLLIN, .revents = 0});
      }
    }
    // An eventfd that was taken back meanwhile (Remove) is woken from; should its number be another
    // file's by then, that makes one look too many.
    poll(entries.data(), entries.size(), is_done ? -1 : 0);
    wake_.Drain();
    absl::MutexLock lock(&mutex_);
    is_done = true;
    for (auto& [queue, ring] : rings_) {
      if (ring.is_broken) continue;
      EventFd::DrainEventFd(kernel_, ring.kick_fd);
      if (!Relay(queue, ring)) is_done = false;
    }
  }
}

}  // namespace vhost::user
