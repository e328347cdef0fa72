// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// VhostOps is the vhost protocol: one method a request, in the types of this library, and nothing
// besides. It is wide on purpose and has few users: VhostDevice (vhost_device.h) is the one place
// that knows in which order the requests must come. KernelVhostOps asks a node of the host kernel;
// a backend in another process is asked the same over a socket.
//
// Every method is one request, blocks until it is answered, and returns an error that names the
// request, its arguments and the errno. Nothing is kept, cached or retried.
//
// Thread safety: as the kernel's, which serialises the requests of one node; callers make one call
// at a time.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernel-abi/kernel.h"
#include "kernel-abi/request.h"
#include "kernel-abi/unique_fd.h"
#include "kernel-abi/vhost.h"
#include "vhost/features.h"
#include "vhost/guest_memory.h"

namespace vhost {

// Where a ring's parts are mapped in the process that owns the device.
struct VringAddresses {
  const void* desc = nullptr;
  const void* avail = nullptr;
  const void* used = nullptr;
  // Guest address to which writes to the used ring are logged; only with `log_used`.
  uint64_t log_address = 0;
  bool log_used = false;
};

class VhostOps {
 public:
  virtual ~VhostOps() = default;

  // How the device is called in messages: "/dev/vhost-net".
  virtual const std::string& name() const = 0;

  // Makes the calling process the owner, and starts the worker. EBUSY: owned already.
  virtual absl::Status SetOwner() = 0;
  virtual absl::StatusOr<VhostFeatures> GetFeatures() = 0;
  virtual absl::Status SetFeatures(VhostFeatures features) = 0;
  // Bits of VHOST_BACKEND_F_*: what the IOTLB messages look like.
  virtual absl::StatusOr<uint64_t> GetBackendFeatures() = 0;
  virtual absl::Status SetBackendFeatures(uint64_t features) = 0;

  virtual absl::Status SetMemoryTable(std::span<const MemoryRegion> regions) = 0;
  virtual absl::Status SetLogBase(const void* bitmap) = 0;
  virtual absl::Status SetLogFd(int event_fd) = 0;

  virtual absl::Status SetVringSize(uint32_t index, uint32_t entries) = 0;
  virtual absl::Status SetVringBase(uint32_t index, uint32_t base) = 0;
  virtual absl::StatusOr<uint32_t> GetVringBase(uint32_t index) = 0;
  virtual absl::Status SetVringAddresses(uint32_t index, const VringAddresses& addresses) = 0;
  // Eventfds, lent: the device takes references of its own. -1 takes the one it has away.
  virtual absl::Status SetVringKick(uint32_t index, int event_fd) = 0;
  virtual absl::Status SetVringCall(uint32_t index, int event_fd) = 0;
  virtual absl::Status SetVringErr(uint32_t index, int event_fd) = 0;
  virtual absl::Status SetVringBusyloop(uint32_t index, uint32_t timeout_us) = 0;
  virtual absl::StatusOr<uint32_t> GetVringBusyloop(uint32_t index) = 0;

  // True if the device forgets where a ring lies (size, addresses) when its kick eventfd is taken
  // away, so that it has to be told again.
  virtual bool forgets_stopped_rings() const { return false; }

  // Gives the device up: closes what requests are made through, which stops it. For when it can no
  // longer be told to stop. Every request fails with EBADF afterwards.
  virtual void Close() = 0;
};

// A vhost node of the host kernel, through an fd that it owns.
class KernelVhostOps final : public VhostOps {
 public:
  // Opens `path`; the error says which module to load, or which permission is missing.
  static absl::StatusOr<KernelVhostOps> Open(kernel_abi::Kernel& kernel, const std::string& path);
  // Takes an fd that was opened elsewhere (a sandbox has no /dev). `name` stands in messages.
  KernelVhostOps(kernel_abi::Kernel& kernel, kernel_abi::UniqueFd fd, std::string name)
      : kernel_(&kernel), fd_(std::move(fd)), name_(std::move(name)) {}

  int fd() const { return fd_.get(); }
  // Gives up the fd, for closing it elsewhere. Every request fails with EBADF afterwards.
  kernel_abi::UniqueFd ReleaseFd() { return std::move(fd_); }

  // GET_FEATURES tells 64 bits. With `wide`, the features are asked and told as an array of 128
  // (Linux 6.17, vhost-net), where the kernel has that.
  void set_wide_features(bool wide) { wide_features_ = wide; }

  const std::string& name() const override { return name_; }
  absl::Status SetOwner() override;
  absl::StatusOr<VhostFeatures> GetFeatures() override;
  absl::Status SetFeatures(VhostFeatures features) override;
  absl::StatusOr<uint64_t> GetBackendFeatures() override;
  absl::Status SetBackendFeatures(uint64_t features) override;
  absl::Status SetMemoryTable(std::span<const MemoryRegion> regions) override;
  absl::Status SetLogBase(const void* bitmap) override;
  absl::Status SetLogFd(int event_fd) override;
  absl::Status SetVringSize(uint32_t index, uint32_t entries) override;
  absl::Status SetVringBase(uint32_t index, uint32_t base) override;
  absl::StatusOr<uint32_t> GetVringBase(uint32_t index) override;
  absl::Status SetVringAddresses(uint32_t index, const VringAddresses& addresses) override;
  absl::Status SetVringKick(uint32_t index, int event_fd) override;
  absl::Status SetVringCall(uint32_t index, int event_fd) override;
  absl::Status SetVringErr(uint32_t index, int event_fd) override;
  absl::Status SetVringBusyloop(uint32_t index, uint32_t timeout_us) override;
  absl::StatusOr<uint32_t> GetVringBusyloop(uint32_t index) override;
  void Close() override { fd_.Reset(); }

  // What only nodes of the kernel are asked.
  absl::Status ResetOwner();  // vhost-net only
  absl::Status SetForkMode(kernel_abi::ForkMode mode);
  // Whether this process may ask what only an owner may: false where SET_OWNER answered EBUSY
  // because of somebody else.
  bool IsOwner();
  absl::Status NetSetBackend(uint32_t index, int tap_fd);  // -1 detaches
  absl::Status VsockSetGuestCid(uint64_t cid);
  absl::Status VsockSetRunning(bool running);

 private:
  template <typename Argument>
  absl::Status Call(const kernel_abi::Request<Argument>& request, Argument argument) {
    return kernel_abi::Call(subject(), request, argument).status();
  }
  kernel_abi::Subject subject() const { return {*kernel_, fd_.get(), name_}; }

  kernel_abi::Kernel* kernel_;
  kernel_abi::UniqueFd fd_;
  std::string name_;
  bool wide_features_ = false;
};

}  // namespace vhost
