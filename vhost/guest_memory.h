// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The guest's memory as this process and the kernel see it.
//
//   MemoryRegion   a stretch of guest addresses and the host mapping behind it
//   MemoryTable    all regions at one moment: immutable, sorted, checked. It translates and copies.
//   GuestMemory    the VM's memory over time: holds the current table, changes it in transactions,
//                  and tells everything that has to follow (backends, KVM memory slots)
//
// Nothing here hands out references into guest memory for data: copy what you check, then use the
// copy. The guest may change any byte at any time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "vhost/guest_address.h"

namespace vhost {

// `size` bytes of guest memory at `start`, mapped at `host` in this process. The mapping belongs to
// whoever made it, and must stay until the region has been removed (GuestMemory::Change returned).
// `memfd` is lent with it: -1 for anonymous memory, which a backend in another process cannot have.
struct MemoryRegion {
  GuestAddress start{};
  uint64_t size = 0;  // bytes
  std::byte* host = nullptr;
  int memfd = -1;
  uint64_t memfd_offset = 0;  // bytes

  friend bool operator==(const MemoryRegion&, const MemoryRegion&) = default;
};

std::string Describe(const MemoryRegion& region);

// Thread safety: immutable. Held by shared_ptr, because every device, backend and data-path thread
// goes on with the table that it has until it is handed the next one.
class MemoryTable {
 public:
  // Regions in any order. INVALID_ARGUMENT names the region that is empty, wraps around, has no
  // host mapping, is not aligned to 4 KiB in all of its addresses, or overlaps another.
  static absl::StatusOr<MemoryTable> Create(std::vector<MemoryRegion> regions);
  MemoryTable() = default;  // No memory at all.

  // Sorted by guest address, as they were given.
  std::span<const MemoryRegion> regions() const { return regions_; }
  // The same memory with neighbours joined where guest addresses, host addresses and memfd go on
  // without a seam: what is handed to vhost, whose tables are short (64 regions by default).
  std::span<const MemoryRegion> merged() const { return merged_; }

  // The host address of `length` bytes at `address`, which must lie in one merged region.
  // OUT_OF_RANGE says which addresses were asked for. A length of 0 is refused as well.
  absl::StatusOr<std::byte*> Translate(GuestAddress address, uint64_t length) const;
  // The guest address of `length` bytes at `host`: the reverse, for VMMs that keep host addresses.
  absl::StatusOr<GuestAddress> TranslateBack(const void* host, uint64_t length) const;

  // True if all of `length` bytes at `address` are memory, in however many adjacent regions.
  bool Contains(GuestAddress address, uint64_t length) const;

  // Copies between guest memory and a buffer of this process. Ranges may span adjacent regions.
  // OUT_OF_RANGE leaves guest memory and buffer untouched.
  absl::Status Read(GuestAddress address, std::span<std::byte> to) const;
  absl::Status Write(GuestAddress address, std::span<const std::byte> from) const;

 private:
  const MemoryRegion* Find(GuestAddress address) const;
  // Calls `copy(host, offset, length)` for each piece of the range, after all of it was found.
  absl::Status ForEachPiece(GuestAddress address, uint64_t length,
                            const std::function<void(std::byte*, uint64_t, uint64_t)>& copy) const;

  std::vector<MemoryRegion> regions_;
  std::vector<MemoryRegion> merged_;
};

// Something that has to follow the guest's memory: a backend, KVM's memory slots.
class MemoryListener {
 public:
  virtual ~MemoryListener() = default;
  // Whether `table` could be taken, without taking it: limits, mostly. The message says which limit
  // and how to raise it. Called for every listener before any of them has to change.
  virtual absl::Status CheckMemory(const MemoryTable& table) const = 0;
  // Takes `table`, and stops using the previous one before it returns. On an error the previous
  // table is still in use.
  virtual absl::Status SetMemory(const std::shared_ptr<const MemoryTable>& table) = 0;
};

// Thread safety: all functions may be called from any thread; changes are serialised. Listeners are
// called with an internal lock held and must not call back into GuestMemory, except table().
class GuestMemory {
 public:
  GuestMemory();
  ~GuestMemory();
  GuestMemory(const GuestMemory&) = delete;
  GuestMemory& operator=(const GuestMemory&) = delete;

  std::shared_ptr<const MemoryTable> table() const;

  struct Range {
    GuestAddress start{};
    uint64_t size = 0;
  };
  // One transaction: `remove` (each must be a whole region that was added) and `add` become true
  // together or not at all, with one SetMemory call a listener. When it returns OK nothing uses the
  // removed regions any more and they can be unmapped. On an error the old table is in force for
  // everybody: those who had switched were switched back.
  absl::Status Change(std::span<const MemoryRegion> add, std::span<const Range> remove);
  absl::Status Add(const MemoryRegion& region) { return Change({&region, 1}, {}); }
  absl::Status Remove(GuestAddress start, uint64_t size) {
    const Range range{start, size};
    return Change({}, {&range, 1});
  }

  // Hands the current table to `listener` and keeps it told from then on. The listener must be
  // removed before it dies; RemoveListener returns when no call to it is under way.
  absl::Status AddListener(MemoryListener* listener);
  void RemoveListener(MemoryListener* listener);

 private:
  absl::Status Publish(const std::shared_ptr<const MemoryTable>& table)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(change_mutex_);

  // Serialises changes and guards the listeners; held while listeners are called.
  absl::Mutex change_mutex_ ABSL_ACQUIRED_BEFORE(table_mutex_);
  std::vector<MemoryListener*> listeners_ ABSL_GUARDED_BY(change_mutex_);
  // Guards the pointer only, so that table() never waits for a change.
  mutable absl::Mutex table_mutex_;
  std::shared_ptr<const MemoryTable> table_ ABSL_GUARDED_BY(table_mutex_);
};

}  // namespace vhost
