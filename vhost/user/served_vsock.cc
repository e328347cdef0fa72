// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/user/served_vsock.h"

#include <span>
#include <utility>

#include "absl/memory/memory.h"
#include "kernel-abi/virtio.h"

namespace vhost::user {

absl::StatusOr<std::unique_ptr<ServedVsock>> ServedVsock::Create(kernel_abi::Kernel& kernel,
                                                                 ServedVsockOptions options) {
  using enum VirtioFeature;
  absl::StatusOr<std::unique_ptr<inprocess::InProcessVsockBackend>> backend =
      inprocess::InProcessVsockBackend::Create(kernel, std::move(options.backend));
  if (!backend.ok()) return backend.status();
  constexpr VirtioFeatures kWanted = {kVersion1,   kRingReset, kIndirectDesc, kEventIdx,
                                      kRingPacked, kInOrder,   kVsockStream,  kVsockSeqpacket};
  const VirtioFeatures features = (*backend)->Supported(kWanted - options.withheld);
  return absl::WrapUnique(new ServedVsock(*std::move(backend), features));
}

std::vector<std::byte> ServedVsock::config() const {
  const kernel_abi::VirtioVsockConfig config{.guest_cid = backend_->guest_cid()};
  const auto bytes = std::as_bytes(std::span(&config, 1));
  return {bytes.begin(), bytes.end()};
}

}  // namespace vhost::user
