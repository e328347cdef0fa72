// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// An open /dev/vhost-net or /dev/vhost-vsock as Linux 6.1 to 7.x keeps it: owner, features, memory
// table, IOTLB, two vrings, log, backends. It answers each request as drivers/vhost/ does, in the
// same order of checks, and moves no packets: a test tells it how far the worker got.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <vector>

#include "kernel-abi/vhost.h"
#include "tests/fakes/fake_node.h"

namespace fakes {

class FakeVhost final : public FakeNode {
 public:
  enum class Kind { kNet, kVsock };
  static constexpr unsigned kVrings = kernel_abi::kVhostVringsPerFd;

  FakeVhost(FakeWorld& world, Kind kind);
  ~FakeVhost() override;

  int Ioctl(unsigned long request, uintptr_t argument) override;
  ssize_t Read(void* buffer, size_t size, bool nonblocking) override;
  ssize_t Write(const void* buffer, size_t size) override;
  void Count(OpenState& state) const override;

  // ---- For tests: what the kernel keeps, and what its worker does ----

  struct Vring {
    uint32_t num = 1;
    uint16_t last_avail = 0;
    uint16_t last_used = 0;
    uint64_t desc = 0, avail = 0, used = 0;
    bool log_used = false;
    uint64_t log_address = ~uint64_t{0};
    uint64_t log_base = 0;
    uint32_t busyloop_us = 0;
    bool big_endian = false;
    kernel_abi::UniqueFd kick, call, error;
    // Net: the TAP. vsock: the kick or nothing, with `running` for whether it is set.
    kernel_abi::UniqueFd backend_file;
    bool running = false;
  };
  struct Region {
    uint64_t start, last;  // guest addresses, or I/O addresses in the IOTLB
    uint64_t host;
    uint64_t size() const { return last - start + 1; }
  };

  Kind kind() const { return kind_; }
  bool has_owner() const { return owner_ != 0; }
  uint64_t features() const { return features_; }
  uint64_t features_high() const { return features_high_; }
  uint64_t backend_features() const { return backend_features_; }
  bool has_memory_table() const { return has_memory_; }
  const std::vector<Region>& memory() const { return memory_; }
  bool has_iotlb() const { return has_iotlb_; }
  const Vring& vring(unsigned index) const { return vrings_.at(index); }
  uint64_t guest_cid() const { return guest_cid_; }
  kernel_abi::ForkMode fork_mode() const { return fork_mode_; }
  bool has_log_fd() const { return log_fd_.valid(); }

  // The worker takes and completes buffers until it has come to `avail` in the avail ring: moves
  // the base, publishes the used index in guest memory and signals call. False if it is not
  // running.
  bool Work(unsigned index, uint16_t avail);
  // The worker finds the ring broken: signals the err eventfd. False if there is none.
  bool RaiseError(unsigned index);
  // True once if the ring was kicked: takes what the kick eventfd counted, which Linux does not.
  bool TakeKick(unsigned index);
  // Makes another process the owner, as the parent is to a forked child.
  void MakeForeign() { owner_ = -1; }

 private:
  int CheckOwner() const;
  int SetOwner();
  int ResetOwner();
  void ResetVrings();
  int SetFeatures(uint64_t low, uint64_t high);
  int FeatureWords(unsigned long request, uintptr_t argument);
  int FeatureArrays(unsigned long request, uintptr_t argument);
  int DeviceRequest(unsigned long request, uintptr_t argument);
  int ForkFromOwner(unsigned long request, uintptr_t argument);
  int SetMemoryTable(uintptr_t argument);
  int SetLogBase(uintptr_t argument);
  int VringRequest(unsigned long request, uintptr_t argument);
  int SetVringAddress(Vring& vring, uintptr_t argument);
  int SetVringFile(unsigned long request, Vring& vring, uintptr_t argument);
  int VringEndian(unsigned long request, Vring& vring, uintptr_t argument);
  int SetBackend(uintptr_t argument);
  int SetGuestCid(uintptr_t argument);
  int SetRunning(uintptr_t argument);

  bool AddRange(std::vector<Region>& map, uint64_t start, uint64_t last, uint64_t host) const;
  bool LogAccessOk(uint64_t log_base, uint64_t address, uint64_t size) const;
  bool LogUsedAccessOk(const Vring& vring, bool log_used, uint64_t log_address) const;
  bool MemoryAccessOk(const std::vector<Region>& memory, uint64_t log_base, bool log_all) const;
  bool VringMemoryOk(const Vring& vring) const;
  bool VringAccessOk(const Vring& vring) const;
  int InitAccess(Vring& vring);
  // The host address behind a ring address: the same, or through the IOTLB. 0: not there.
  uint64_t Translate(uint64_t address) const;

  FakeWorld& world_;
  const Kind kind_;
  pid_t owner_ = 0;  // 0: nobody; -1: somebody else
  kernel_abi::ForkMode fork_mode_ = kernel_abi::ForkMode::kOwnerTask;
  uint64_t features_ = 0;
  uint64_t features_high_ = 0;
  uint64_t backend_features_ = 0;
  bool has_memory_ = false;
  std::vector<Region> memory_;
  bool has_iotlb_ = false;
  std::vector<Region> iotlb_;
  kernel_abi::UniqueFd log_fd_;
  std::array<Vring, kVrings> vrings_;
  uint64_t guest_cid_ = 0;
};

}  // namespace fakes
