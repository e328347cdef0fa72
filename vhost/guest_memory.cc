// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/guest_memory.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernel-abi/system_error.h"

namespace vhost {
namespace {

// vhost checks no alignment; pages are what mmap, KVM and the dirty log count in.
constexpr uint64_t kPageBytes = 4096;

uint64_t HostValue(const MemoryRegion& region) { return reinterpret_cast<uint64_t>(region.host); }

absl::Status CheckRegion(const MemoryRegion& region) {
  // A region of 0 bytes at 0 is one that vhost would take for the whole address space.
  const char* wrong = nullptr;
  if (region.size == 0) {
    wrong = "is empty";
  } else if (Value(region.start) + (region.size - 1) < Value(region.start)) {
    wrong = "wraps around the end of the guest address space";
  } else if (region.host == nullptr) {
    wrong = "has no host mapping";
  } else if (HostValue(region) + (region.size - 1) < HostValue(region)) {
    wrong = "wraps around the end of the host address space";
  } else if ((Value(region.start) | region.size | HostValue(region)) % kPageBytes != 0) {
    wrong = "is not aligned to 4096 bytes in guest address, size and host address";
  } else {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("memory region ", Describe(region), " ", wrong));
}

bool GoesOn(const MemoryRegion& left, const MemoryRegion& right) {
  return Value(left.start) + left.size == Value(right.start) &&
         left.host + left.size == right.host && left.memfd == right.memfd &&
         (left.memfd < 0 || left.memfd_offset + left.size == right.memfd_offset);
}

absl::Status NotMapped(GuestAddress address, uint64_t length) {
  return absl::OutOfRangeError(
      absl::StrFormat("%d bytes at guest address %#x are not in guest memory (one region)", length,
                      Value(address)));
}

}  // namespace

std::string Describe(const MemoryRegion& region) {
  return absl::StrFormat("[guest %#x size %#x host %#x%s]", Value(region.start), region.size,
                         HostValue(region),
                         region.memfd < 0 ? "" : absl::StrCat(" memfd ", region.memfd));
}

absl::StatusOr<MemoryTable> MemoryTable::Create(std::vector<MemoryRegion> regions) {
  std::sort(regions.begin(), regions.end(),
            [](const MemoryRegion& a, const MemoryRegion& b) { return a.start < b.start; });
  MemoryTable table;
  for (const MemoryRegion& region : regions) {
    if (absl::Status status = CheckRegion(region); !status.ok()) return status;
    if (table.merged_.empty()) {
      table.merged_.push_back(region);
      continue;
    }
    MemoryRegion& last = table.merged_.back();
    if (Value(last.start) + (last.size - 1) >= Value(region.start)) {
      return absl::InvalidArgumentError(
          absl::StrCat("memory region ", Describe(region), " overlaps ", Describe(last)));
    }
    if (GoesOn(last, region)) {
      last.size += region.size;
    } else {
      table.merged_.push_back(region);
    }
  }
  table.regions_ = std::move(regions);
  return table;
}

const MemoryRegion* MemoryTable::Find(GuestAddress address) const {
  auto after = std::upper_bound(
      merged_.begin(), merged_.end(), address,
      [](GuestAddress wanted, const MemoryRegion& region) { return wanted < region.start; });
  if (after == merged_.begin()) return nullptr;
  const MemoryRegion& region = *std::prev(after);
  return Value(address) - Value(region.start) < region.size ? &region : nullptr;
}

absl::StatusOr<std::byte*> MemoryTable::Translate(GuestAddress address, uint64_t length) const {
  const MemoryRegion* region = Find(address);
  if (region == nullptr || length == 0) return NotMapped(address, length);
  const uint64_t offset = Value(address) - Value(region->start);
  if (length > region->size - offset) return NotMapped(address, length);
  return region->host + offset;
}

absl::StatusOr<GuestAddress> MemoryTable::TranslateBack(const void* host, uint64_t length) const {
  const uint64_t wanted = reinterpret_cast<uint64_t>(host);
  for (const MemoryRegion& region : merged_) {
    const uint64_t offset = wanted - HostValue(region);
    if (wanted >= HostValue(region) && offset < region.size && length != 0 &&
        length <= region.size - offset) {
      return region.start + offset;
    }
  }
  return absl::OutOfRangeError(absl::StrFormat(
      "%d bytes at host address %#x are not in guest memory (one region)", length, wanted));
}

bool MemoryTable::Contains(GuestAddress address, uint64_t length) const {
  if (length == 0 || Value(address) + (length - 1) < Value(address)) return false;
  const uint64_t last = Value(address) + (length - 1);
  while (const MemoryRegion* region = Find(address)) {
    const uint64_t region_last = Value(region->start) + (region->size - 1);
    if (last <= region_last) return true;
    address = GuestAddress{region_last + 1};
  }
  return false;
}

absl::Status MemoryTable::ForEachPiece(
    GuestAddress address, uint64_t length,
    const std::function<void(std::byte*, uint64_t, uint64_t)>& copy) const {
  if (length == 0) return absl::OkStatus();
  if (Value(address) + (length - 1) < Value(address)) return NotMapped(address, length);
  for (const bool act : {false, true}) {
    uint64_t done = 0;
    while (done < length) {
      const MemoryRegion* region = Find(address + done);
      if (region == nullptr) return NotMapped(address, length);
      const uint64_t offset = Value(address) + done - Value(region->start);
      const uint64_t piece = std::min(length - done, region->size - offset);
      if (act) copy(region->host + offset, done, piece);
      done += piece;
    }
  }
  return absl::OkStatus();
}

absl::Status MemoryTable::Read(GuestAddress address, std::span<std::byte> to) const {
  return ForEachPiece(address, to.size(), [&](std::byte* host, uint64_t offset, uint64_t length) {
    std::memcpy(to.data() + offset, host, length);
  });
}

absl::Status MemoryTable::Write(GuestAddress address, std::span<const std::byte> from) const {
  return ForEachPiece(address, from.size(), [&](std::byte* host, uint64_t offset, uint64_t length) {
    std::memcpy(host, from.data() + offset, length);
  });
}

GuestMemory::GuestMemory() : table_(std::make_shared<const MemoryTable>()) {}
GuestMemory::~GuestMemory() = default;

std::shared_ptr<const MemoryTable> GuestMemory::table() const {
  absl::MutexLock lock(&table_mutex_);
  return table_;
}

absl::Status GuestMemory::Change(std::span<const MemoryRegion> add, std::span<const Range> remove) {
  absl::MutexLock lock(&change_mutex_);
  const std::shared_ptr<const MemoryTable> old = table();
  std::vector<MemoryRegion> regions(old->regions().begin(), old->regions().end());
  for (const Range& range : remove) {
    const auto found =
        std::find_if(regions.begin(), regions.end(), [&](const MemoryRegion& region) {
          return region.start == range.start && region.size == range.size;
        });
    if (found == regions.end()) {
      return absl::NotFoundError(
          absl::StrFormat("no memory region of %#x bytes at guest address %#x to remove",
                          range.size, Value(range.start)));
    }
    regions.erase(found);
  }
  regions.insert(regions.end(), add.begin(), add.end());
  absl::StatusOr<MemoryTable> table = MemoryTable::Create(std::move(regions));
  if (!table.ok()) return table.status();
  return Publish(std::make_shared<const MemoryTable>(*std::move(table)));
}

absl::Status GuestMemory::Publish(const std::shared_ptr<const MemoryTable>& table) {
  const std::shared_ptr<const MemoryTable> old = this->table();
  for (const MemoryListener* listener : listeners_) {
    if (absl::Status status = listener->CheckMemory(*table); !status.ok()) return status;
  }
  for (size_t i = 0; i < listeners_.size(); ++i) {
    absl::Status status = listeners_[i]->SetMemory(table);
    if (status.ok()) continue;
    for (size_t back = i; back-- > 0;) {
      // The old table was in force a moment ago, so it can be taken again; if even that fails the
      // operator must know, as this listener now sees memory that the others do not.
      if (absl::Status undo = listeners_[back]->SetMemory(old); !undo.ok()) {
        status = kernel_abi::AddAdvice(
            status,
            absl::StrCat("and going back to the old memory table failed: ", undo.message()));
      }
    }
    return status;
  }
  absl::MutexLock lock(&table_mutex_);
  table_ = table;
  return absl::OkStatus();
}

absl::Status GuestMemory::AddListener(MemoryListener* listener) {
  absl::MutexLock lock(&change_mutex_);
  const std::shared_ptr<const MemoryTable> current = table();
  if (absl::Status status = listener->CheckMemory(*current); !status.ok()) return status;
  if (absl::Status status = listener->SetMemory(current); !status.ok()) return status;
  listeners_.push_back(listener);
  return absl::OkStatus();
}

void GuestMemory::RemoveListener(MemoryListener* listener) {
  absl::MutexLock lock(&change_mutex_);
  std::erase(listeners_, listener);
}

}  // namespace vhost
