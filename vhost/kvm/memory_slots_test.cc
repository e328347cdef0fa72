// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Against a kernel that keeps slots and refuses overlaps, as KVM does.
#include "vhost/kvm/memory_slots.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>

#include "kernel-abi/kernel.h"
#include "kernel-abi/kvm.h"

namespace vhost::kvm {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr uint64_t kPage = 4096;

class SlotKernel : public kernel_abi::Kernel {
 public:
  int Ioctl(int, unsigned long request, uintptr_t argument) override {
    if (request == KVM_CHECK_EXTENSION) return slot_count;
    if (request != KVM_SET_USER_MEMORY_REGION) return -ENOTTY;
    ++sets;
    if (sets == fail_at) return -ENOMEM;
    const auto& region = *reinterpret_cast<const kvm_userspace_memory_region*>(argument);
    if (region.memory_size == 0) return slots.erase(region.slot) == 1 ? 0 : -EINVAL;
    for (const auto& [slot, other] : slots) {
      if (region.guest_phys_addr < other.guest_phys_addr + other.memory_size &&
          other.guest_phys_addr < region.guest_phys_addr + region.memory_size) {
        return -EEXIST;
      }
    }
    slots[region.slot] = region;
    return 0;
  }
  int Open(const char*, int) override { return -ENOSYS; }
  int EventFd(unsigned, int) override { return -ENOSYS; }
  ssize_t Read(int, void*, size_t) override { return -ENOSYS; }
  ssize_t Write(int, const void*, size_t) override { return -ENOSYS; }
  int Duplicate(int) override { return -ENOSYS; }
  int MemFd(const char*, unsigned) override { return -ENOSYS; }
  int Truncate(int, off_t) override { return -ENOSYS; }
  int Map(size_t, int, int, int, off_t, void**) override { return -ENOSYS; }
  int Unmap(void*, size_t) override { return -ENOSYS; }
  pid_t ThreadId() override { return 1; }
  int SetAffinity(pid_t, const cpu_set_t&) override { return -ENOSYS; }
  int SetNice(pid_t, int) override { return -ENOSYS; }

  int slot_count = 32;
  int sets = 0;
  int fail_at = 0;
  std::map<uint32_t, kvm_userspace_memory_region> slots;
};

class MemorySlotsTest : public ::testing::Test {
 protected:
  MemorySlotsTest()
      : backing_(static_cast<std::byte*>(std::aligned_alloc(kPage, 8 * kPage)), &std::free),
        slots_(*MemorySlots::Create(kernel_, 3, 2)) {}

  MemoryRegion At(uint64_t guest, uint64_t host_page) const {
    return {
        .start = GuestAddress{guest}, .size = kPage, .host = backing_.get() + host_page * kPage};
  }
  std::map<uint64_t, uint64_t> Mapped() const {  // guest address to host address
    std::map<uint64_t, uint64_t> mapped;
    for (const auto& [slot, region] : kernel_.slots) {
      mapped[region.guest_phys_addr] = region.userspace_addr;
    }
    return mapped;
  }

  SlotKernel kernel_;
  std::unique_ptr<std::byte, decltype(&std::free)> backing_;
  std::unique_ptr<MemorySlots> slots_;
  GuestMemory memory_;
};

TEST_F(MemorySlotsTest, FollowTheRegionsAndLeaveAloneWhatStays) {
  ASSERT_TRUE(memory_.Add(At(0, 0)).ok());
  ASSERT_TRUE(memory_.AddListener(slots_.get()).ok());
  ASSERT_TRUE(memory_.Add(At(0x100000, 1)).ok());
  EXPECT_THAT(kernel_.slots, SizeIs(2));
  EXPECT_EQ(kernel_.slots.begin()->first, 2u);
  EXPECT_EQ(kernel_.sets, 2);
  ASSERT_TRUE(memory_.Remove(GuestAddress{0}, kPage).ok());
  EXPECT_EQ(kernel_.sets, 3);
  EXPECT_EQ(Mapped().count(0), 0u);
}

TEST_F(MemorySlotsTest, ARegionCanBeReplacedByAnotherAtTheSameAddress) {
  ASSERT_TRUE(memory_.AddListener(slots_.get()).ok());
  ASSERT_TRUE(memory_.Add(At(0, 0)).ok());
  const MemoryRegion other = At(0, 1);
  const GuestMemory::Range gone{GuestAddress{0}, kPage};
  ASSERT_TRUE(memory_.Change({&other, 1}, {&gone, 1}).ok());
  EXPECT_EQ(Mapped()[0], reinterpret_cast<uint64_t>(other.host));
}

TEST_F(MemorySlotsTest, AFailureAtAnyStepPutsEverythingBack) {
  ASSERT_TRUE(memory_.AddListener(slots_.get()).ok());
  const MemoryRegion first[] = {At(0, 0), At(0x100000, 1), At(0x200000, 2)};
  ASSERT_TRUE(memory_.Change(first, {}).ok());
  const auto before = Mapped();
  const MemoryRegion added[] = {At(0, 3), At(0x300000, 4)};
  const GuestMemory::Range removed[] = {{GuestAddress{0}, kPage}, {GuestAddress{0x100000}, kPage}};
  for (int k = 1; k <= 4; ++k) {
    kernel_.fail_at = kernel_.sets + k;
    const absl::Status status = memory_.Change(added, removed);
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << k;
    EXPECT_THAT(std::string(status.message()), HasSubstr("KVM_SET_USER_MEMORY_REGION(slot=")) << k;
    EXPECT_EQ(Mapped(), before) << k;
  }
  EXPECT_TRUE(memory_.Change(added, removed).ok());
  EXPECT_THAT(kernel_.slots, SizeIs(3));
}

TEST_F(MemorySlotsTest, MoreRegionsThanSlotsAreRefusedBeforeAnythingChanges) {
  kernel_.slot_count = 3;
  auto slots = *MemorySlots::Create(kernel_, 3, 2);
  ASSERT_TRUE(memory_.AddListener(slots.get()).ok());
  const MemoryRegion two[] = {At(0, 0), At(0x100000, 1)};
  const absl::Status status = memory_.Change(two, {});
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("KVM_CAP_NR_MEMSLOTS"));
  EXPECT_EQ(kernel_.sets, 0);
}

}  // namespace
}  // namespace vhost::kvm
