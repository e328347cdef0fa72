// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What a fake vhost device does with addresses: the memory table, the dirty log, the checks before
// a ring may run, and the IOTLB.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "tests/fakes/fake_vhost.h"
#include "tests/fakes/user_memory.h"

namespace fakes {
namespace {

using namespace kernel_abi;  // NOLINT: the requests, by their names

constexpr uint64_t kLogAll = uint64_t{1} << kVhostFLogAll;
constexpr uint64_t kEventIdx = uint64_t{1} << 29;

}  // namespace

// vhost_iotlb_add_range(): everything from 0 on is kept in two halves, because its size would be 0.
bool FakeVhost::AddRange(std::vector<Region>& map, uint64_t start, uint64_t last,
                         uint64_t host) const {
  if (last < start) return false;
  if (start == 0 && last == ~uint64_t{0}) {
    const uint64_t middle = last / 2;
    return AddRange(map, start, middle, host) && AddRange(map, middle + 1, last, host + middle + 1);
  }
  if (map.size() == static_cast<size_t>(world_.options().max_iotlb_entries)) {
    map.erase(map.begin());  // The oldest goes, in silence.
  }
  map.push_back({start, last, host});
  return true;
}

int FakeVhost::SetMemoryTable(uintptr_t argument) {
  struct {
    uint32_t regions;
    uint32_t padding;
  } header;
  if (Get(&header, argument) != 0) return -EFAULT;
  if (header.padding != 0) return -EOPNOTSUPP;
  if (header.regions > world_.options().max_mem_regions) return -E2BIG;
  if (world_.options().max_iotlb_entries <= 0) return -EINVAL;
  std::vector<vhost_memory_region> regions(header.regions);
  if (CopyFromUser(regions.data(), argument + sizeof(header),
                   regions.size() * sizeof(vhost_memory_region)) != 0) {
    return -EFAULT;
  }
  std::vector<Region> memory;
  for (const vhost_memory_region& region : regions) {
    if (!AddRange(memory, region.guest_phys_addr, region.guest_phys_addr + region.memory_size - 1,
                  region.userspace_addr)) {
      return -EFAULT;
    }
  }
  for (const Vring& vring : vrings_) {
    if (vring.running && !MemoryAccessOk(memory, vring.log_base, (features_ & kLogAll) != 0)) {
      return -EFAULT;
    }
  }
  memory_ = std::move(memory);
  has_memory_ = true;
  return 0;
}

int FakeVhost::SetLogBase(uintptr_t argument) {
  uint64_t base = 0;
  if (Get(&base, argument) != 0) return -EFAULT;
  int result = 0;
  for (Vring& vring : vrings_) {
    const bool fits = has_memory_ && MemoryAccessOk(memory_, base, (features_ & kLogAll) != 0);
    Vring with_base;
    with_base.num = vring.num;
    with_base.log_base = base;
    if (vring.running &&
        (!fits || !LogUsedAccessOk(with_base, vring.log_used, vring.log_address))) {
      result = -EFAULT;  // This one stays, those before and behind it go.
    } else {
      vring.log_base = base;
    }
  }
  return result;
}

bool FakeVhost::LogAccessOk(uint64_t log_base, uint64_t address, uint64_t size) const {
  constexpr uint64_t kPagesBytes = VHOST_PAGE_SIZE * 8;
  const uint64_t offset = address / kPagesBytes;
  if (offset > ~uint64_t{0} - log_base) return false;
  return AccessOk(log_base + offset, (size + kPagesBytes - 1) / kPagesBytes);
}

bool FakeVhost::LogUsedAccessOk(const Vring& vring, bool log_used, uint64_t log_address) const {
  const uint64_t event_bytes = (features_ & kEventIdx) != 0 ? 2 : 0;
  return has_iotlb_ || !log_used ||
         LogAccessOk(vring.log_base, log_address, 4 + uint64_t{8} * vring.num + event_bytes);
}

bool FakeVhost::MemoryAccessOk(const std::vector<Region>& memory, uint64_t log_base,
                               bool log_all) const {
  return std::all_of(memory.begin(), memory.end(), [&](const Region& region) {
    return AccessOk(region.host, region.size()) &&
           (!log_all || LogAccessOk(log_base, region.start, region.size()));
  });
}

bool FakeVhost::VringMemoryOk(const Vring& vring) const {
  if (has_iotlb_) return true;
  const uint64_t event_bytes = (features_ & kEventIdx) != 0 ? 2 : 0;
  return AccessOk(vring.desc, uint64_t{16} * vring.num) &&
         AccessOk(vring.avail, 4 + uint64_t{2} * vring.num + event_bytes) &&
         AccessOk(vring.used, 4 + uint64_t{8} * vring.num + event_bytes);
}

bool FakeVhost::VringAccessOk(const Vring& vring) const {
  return has_memory_ && MemoryAccessOk(memory_, vring.log_base, (features_ & kLogAll) != 0) &&
         LogUsedAccessOk(vring, vring.log_used, vring.log_address) && VringMemoryOk(vring);
}

uint64_t FakeVhost::Translate(uint64_t address) const {
  if (!has_iotlb_) return address;
  for (const Region& region : iotlb_) {
    if (address >= region.start && address <= region.last) {
      return region.host + (address - region.start);
    }
  }
  return 0;
}

// What a start does to the rings: writes used->flags, and goes on from the used index it finds.
int FakeVhost::InitAccess(Vring& vring) {
  const uint64_t used = Translate(vring.used);
  const uint16_t flags = 0;
  if (Put(used, flags) != 0) return -EFAULT;
  return Get(&vring.last_used, used + 2);
}

// ---- IOTLB messages ----------------------------------------------------------------------------

ssize_t FakeVhost::Read(void* /*buffer*/, size_t size, bool nonblocking) {
  if (size < sizeof(vhost_msg)) return 0;
  if (nonblocking) return -EAGAIN;
  return has_iotlb_ ? -EAGAIN : -EBADFD;  // Where Linux would wait, the fake cannot.
}

ssize_t FakeVhost::Write(const void* buffer, size_t size) {
  // Both versions carry the message at the same place; version 2 has an asid where 1 has a hole.
  vhost_msg_v2 message = {};
  if (size < offsetof(vhost_msg_v2, iotlb) + sizeof(vhost_iotlb_msg)) return -EINVAL;
  std::memcpy(&message, buffer, std::min(size, sizeof(message)));
  if (message.type != VHOST_IOTLB_MSG && message.type != VHOST_IOTLB_MSG_V2) return -EINVAL;
  const vhost_iotlb_msg& iotlb = message.iotlb;
  if (iotlb.type == VHOST_IOTLB_UPDATE && iotlb.size == 0) return -EINVAL;
  if (!has_iotlb_) return -EFAULT;
  const uint64_t last = iotlb.iova + iotlb.size - 1;
  switch (iotlb.type) {
    case VHOST_IOTLB_UPDATE:
      if (!AccessOk(iotlb.uaddr, iotlb.size)) return -EFAULT;
      if (!AddRange(iotlb_, iotlb.iova, last, iotlb.uaddr)) return -EFAULT;
      break;
    case VHOST_IOTLB_INVALIDATE:
      std::erase_if(iotlb_, [&](const Region& region) {
        return region.start <= last && region.last >= iotlb.iova;
      });
      break;
    default:
      return -EFAULT;
  }
  return sizeof(message);
}

}  // namespace fakes
