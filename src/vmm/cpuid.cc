// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vmm/cpuid.h"

#include <algorithm>
#include <bit>

namespace vmm {
namespace {

constexpr uint32_t kFeatures = 0x1;
constexpr uint32_t kCaches = 0x4;
constexpr uint32_t kTopology = 0xB;
constexpr uint32_t kTopologyV2 = 0x1F;
constexpr uint32_t kAmdFeatures = 0x8000'0001;
constexpr uint32_t kAmdSizes = 0x8000'0008;
constexpr uint32_t kAmdCaches = 0x8000'001D;
constexpr uint32_t kAmdTopology = 0x8000'001E;

// No guest runs guests of its own: a vCPU that is in its guest mode cannot be put back to its
// start.
constexpr uint32_t kEcxVmx = 1U << 5;
constexpr uint32_t kAmdEcxSvm = 1U << 2;
constexpr uint32_t kEcxHypervisor = 1U << 31;
constexpr uint32_t kEcxTscDeadline = 1U << 24;
constexpr uint32_t kEdxHyperthreading = 1U << 28;

// Replaces bits [first, first + width) of `word`.
constexpr uint32_t WithBits(uint32_t word, unsigned first, unsigned width, uint32_t value) {
  const uint32_t mask = ((uint32_t{1} << width) - 1) << first;
  return (word & ~mask) | (value << first & mask);
}

// Levels 0 and 1 are a core's own; further ones are shared by the socket.
uint32_t WithCacheSharing(uint32_t eax, uint32_t cpus) {
  constexpr unsigned kLevelShift = 5;
  const uint32_t level = eax >> kLevelShift & 7;
  return WithBits(eax, 14, 12, level >= 3 ? cpus - 1 : 0);
}

}  // namespace

kernel_abi::CpuidTable VcpuCpuid(const kernel_abi::CpuidTable& supported, uint32_t cpu,
                                 uint32_t cpus, bool tsc_deadline) {
  const auto id_bits = static_cast<uint32_t>(std::bit_width(cpus - 1));
  const uint32_t id_space = uint32_t{1} << id_bits;
  bool has_topology = false;
  kernel_abi::CpuidTable table;
  for (kvm_cpuid_entry2 leaf : supported.entries()) {
    switch (leaf.function) {
      case kFeatures:
        leaf.ebx = WithBits(leaf.ebx, 24, 8, cpu);
        leaf.ebx = WithBits(leaf.ebx, 16, 8, std::min<uint32_t>(id_space, 255));
        leaf.ecx &= ~kEcxVmx;
        leaf.ecx |= kEcxHypervisor | (tsc_deadline ? kEcxTscDeadline : 0);
        if (cpus > 1) leaf.edx |= kEdxHyperthreading;
        break;
      case kCaches:
        if ((leaf.eax & 0x1F) == 0) break;  // the list's end
        leaf.eax = WithCacheSharing(leaf.eax, cpus);
        leaf.eax = WithBits(leaf.eax, 26, 6, std::min<uint32_t>(id_space - 1, 63));
        break;
      case kTopology:
        has_topology = true;
        continue;  // made anew below
      case kTopologyV2:
        continue;  // says nothing that the older one does not
      case kAmdFeatures:
        leaf.ecx &= ~kAmdEcxSvm;
        break;
      case kAmdSizes:
        leaf.ecx = WithBits(leaf.ecx, 0, 8, cpus - 1);
        leaf.ecx = WithBits(leaf.ecx, 12, 4, id_bits);
        break;
      case kAmdCaches:
        if ((leaf.eax & 0x1F) != 0) leaf.eax = WithCacheSharing(leaf.eax, cpus);
        break;
      case kAmdTopology:
        leaf.eax = cpu;
        leaf.ebx = cpu & 0xFF;  // core id; one thread a core
        leaf.ecx = 0;           // one node
        break;
      default:
        break;
    }
    table.Append(leaf);
  }
  if (has_topology) {
    struct Level {
      uint32_t id_shift;
      uint32_t processors;
      uint32_t type;
    };
    constexpr uint32_t kEnd = 0;
    constexpr uint32_t kThreads = 1;
    constexpr uint32_t kCores = 2;
    const Level levels[] = {{0, 1, kThreads}, {id_bits, cpus, kCores}, {0, 0, kEnd}};
    for (uint32_t index = 0; const Level& level : levels) {
      table.Append({.function = kTopology,
                    .index = index,
                    .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
                    .eax = level.id_shift,
                    .ebx = level.processors,
                    .ecx = index | level.type << 8,
                    .edx = cpu});
      ++index;
    }
  }
  return table;
}

}  // namespace vmm
