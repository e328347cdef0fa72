// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/kernel/vsock_backend.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "kernel-abi/system_error.h"

namespace vhost {
namespace {

// A machine with more guests than this has other limits; the bound is for a kernel that answers
// EADDRINUSE to everything.
constexpr uint64_t kMaxCidsTried = 65536;

class VsockAttachment final : public VringAttachment {
 public:
  explicit VsockAttachment(KernelVhostOps& ops) : ops_(&ops) {}

  bool all_at_once() const override { return true; }
  absl::Status Attach(uint32_t) override {
    const absl::Status status = ops_->VsockSetRunning(true);
    return kernel_abi::GetErrno(status) == EFAULT
               ? kernel_abi::AddAdvice(status, "a ring is not in memory of this process")
               : status;
  }
  absl::Status Detach(uint32_t) override { return ops_->VsockSetRunning(false); }

 private:
  KernelVhostOps* ops_;
};

absl::Status SetCid(KernelVhostOps& ops, uint64_t cid) {
  const absl::Status status = ops.VsockSetGuestCid(cid);
  switch (kernel_abi::GetErrno(status)) {
    case EADDRINUSE:
      return kernel_abi::AddAdvice(
          status,
          "another guest of this host has that CID, or it is this machine's own (it is a "
          "guest itself): choose another, or none to have one chosen");
    case EINVAL:
      return kernel_abi::AddAdvice(
          status, absl::StrCat("a guest's CID is from ", kFirstGuestCid, " to ", kLastGuestCid));
    default:
      return status;
  }
}

// Takes the first CID that is free. To try is the only way that nobody can come between.
absl::StatusOr<uint64_t> AllocateCid(KernelVhostOps& ops, uint64_t first, uint64_t last) {
  if (first < kFirstGuestCid || last > kLastGuestCid || first > last) {
    return absl::InvalidArgumentError(absl::StrCat("CIDs ", first, " to ", last,
                                                   ": a guest's are from ", kFirstGuestCid, " to ",
                                                   kLastGuestCid));
  }
  last = std::min(last, first + kMaxCidsTried - 1);
  for (uint64_t cid = first; cid <= last; ++cid) {
    const absl::Status status = ops.VsockSetGuestCid(cid);
    if (status.ok()) return cid;
    if (kernel_abi::GetErrno(status) != EADDRINUSE) return status;
  }
  return absl::ResourceExhaustedError(
      absl::StrCat(ops.name(), ": all CIDs from ", first, " to ", last, " are taken"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<VsockBackend>> VsockBackend::Create(kernel_abi::Kernel& kernel,
                                                                   VsockBackendOptions options) {
  auto backend = absl::WrapUnique(new VsockBackend(kernel, options));
  absl::StatusOr<KernelNode> node = KernelNode::Create(kernel, backend->host(),
                                                       {.path = options.node,
                                                        .fd = std::move(options.vhost_fd),
                                                        .worker = options.worker,
                                                        .fork_mode = options.fork_mode});
  if (!node.ok()) return node.status();
  uint64_t cid = 0;
  if (options.cid.has_value()) {
    cid = *options.cid;
    if (absl::Status status = SetCid(*node->ops, cid); !status.ok()) return status;
  } else {
    absl::StatusOr<uint64_t> allocated =
        AllocateCid(*node->ops, options.first_cid, options.last_cid);
    if (!allocated.ok()) return allocated.status();
    cid = *allocated;
  }
  backend->guest_cid_ = cid;
  auto attachment = std::make_unique<VsockAttachment>(*node->ops);
  absl::Status status = backend->AddNode(*std::move(node), std::move(attachment));
  if (!status.ok()) return status;
  return backend;
}

VsockBackend::~VsockBackend() = default;

}  // namespace vhost
