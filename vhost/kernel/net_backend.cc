// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/kernel/net_backend.h"

#include <cerrno>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernel-abi/system_error.h"
#include "kernel-abi/tun.h"
#include "kernel-abi/virtio.h"

namespace vhost {
namespace {

class NetAttachment final : public VringAttachment {
 public:
  NetAttachment(KernelVhostOps& ops, int tap_fd) : ops_(&ops), tap_fd_(tap_fd) {}

  bool all_at_once() const override { return false; }
  absl::Status Attach(uint32_t index) override {
    const absl::Status status = ops_->NetSetBackend(index, tap_fd_);
    switch (kernel_abi::GetErrno(status)) {
      case ENOTSOCK:  // Also for an fd that is not open.
        return kernel_abi::AddAdvice(status, "the fd is not a TAP's");
      case EFAULT:
        return kernel_abi::AddAdvice(status, "the ring is not in memory of this process");
      default:
        return status;
    }
  }
  absl::Status Detach(uint32_t index) override { return ops_->NetSetBackend(index, -1); }

 private:
  KernelVhostOps* ops_;
  int tap_fd_;
};

// What needs a header on the TAP to be told in.
constexpr VirtioFeatures kHeaderFeatures = {
    VirtioFeature::kNetCsum,      VirtioFeature::kNetGuestCsum, VirtioFeature::kNetGuestTso4,
    VirtioFeature::kNetGuestTso6, VirtioFeature::kNetGuestEcn,  VirtioFeature::kNetGuestUfo,
    VirtioFeature::kNetHostTso4,  VirtioFeature::kNetHostTso6,  VirtioFeature::kNetHostEcn,
    VirtioFeature::kNetHostUfo,   VirtioFeature::kNetGuestUso4, VirtioFeature::kNetGuestUso6,
    VirtioFeature::kNetHostUso};

constexpr VirtioFeatures kTunnelFeatures = {
    VirtioFeature::kNetGuestUdpTunnelGso, VirtioFeature::kNetGuestUdpTunnelGsoCsum,
    VirtioFeature::kNetHostUdpTunnelGso, VirtioFeature::kNetHostUdpTunnelGsoCsum};

}  // namespace

absl::StatusOr<std::unique_ptr<NetBackend>> NetBackend::Create(kernel_abi::Kernel& kernel,
                                                               NetBackendOptions options) {
  if (options.tap_fds.empty()) {
    return absl::InvalidArgumentError("a net backend needs a TAP queue for each queue pair");
  }
  if (!options.vhost_fds.empty() && options.vhost_fds.size() != options.tap_fds.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.vhost_fds.size(), " vhost fds were handed in for ",
                     options.tap_fds.size(), " TAP queues: each queue pair takes one of both"));
  }
  auto backend = absl::WrapUnique(new NetBackend(kernel, options));
  for (size_t pair = 0; pair < backend->tap_fds_.size(); ++pair) {
    KernelNodeOptions node_options{.path = options.node,
                                   .worker = options.worker,
                                   .fork_mode = options.fork_mode,
                                   .wide_features = options.wide_features};
    if (!options.vhost_fds.empty()) {
      node_options.fd = std::move(options.vhost_fds[pair]);
      if (!node_options.fd.valid()) {
        return absl::InvalidArgumentError(
            absl::StrCat("the vhost fd handed in for queue pair ", pair, " is no fd"));
      }
    }
    absl::StatusOr<KernelNode> node =
        KernelNode::Create(kernel, backend->host(), std::move(node_options));
    if (!node.ok()) {
      return kernel_abi::AddContext(node.status(), absl::StrCat("queue pair ", pair));
    }
    backend->vhost_can_add_header_ = node->offered.Has(VhostFeature::kNetVirtioNetHdr);
    auto attachment = std::make_unique<NetAttachment>(*node->ops, backend->tap_fds_[pair]);
    absl::Status status = backend->AddNode(*std::move(node), std::move(attachment));
    if (!status.ok()) return kernel_abi::AddContext(status, absl::StrCat("queue pair ", pair));
  }
  return backend;
}

NetBackend::~NetBackend() = default;

int NetBackend::HeaderBytes(VirtioFeatures acked) {
  if (!(acked & kTunnelFeatures).empty()) return kernel_abi::kNetHdrSizeTunnel;
  return acked.Has(VirtioFeature::kNetMrgRxbuf) || acked.Has(VirtioFeature::kVersion1)
             ? kernel_abi::kNetHdrSize
             : kernel_abi::kNetHdrSizeLegacy;
}

absl::StatusOr<NetBackend::TapFacts> NetBackend::ReadTap(size_t node) const {
  const kernel_abi::Subject tap{kernel(), tap_fds_[node], "TAP"};
  ifreq interface {};
  const absl::Status status = kernel_abi::Call(tap, kernel_abi::kTunGetIff, interface).status();
  if (!status.ok()) {
    return kernel_abi::AddAdvice(status,
                                 absl::StrCat("fd ", tap_fds_[node], " of queue pair ", node,
                                              kernel_abi::GetErrno(status) == EBADFD
                                                  ? " is not attached to an interface (TUNSETIFF)"
                                                  : " is not a TAP's"));
  }
  TapFacts facts{.name = kernel_abi::InterfaceName(interface),
                 .has_header = (interface.ifr_flags & IFF_VNET_HDR) != 0};
  if ((interface.ifr_flags & IFF_TAP) == 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        facts.name, ": is a TUN (packets without an Ethernet header); vhost-net needs a TAP"));
  }
  return facts;
}

absl::StatusOr<VhostFeatures> NetBackend::PrepareNode(size_t node, VirtioFeatures acked) {
  if (taps_are_checked_) return VhostFeatures();
  if (!taps_[node].has_value()) {
    absl::StatusOr<TapFacts> facts = ReadTap(node);
    if (!facts.ok()) return facts.status();
    taps_[node] = *std::move(facts);
  }
  TapFacts& tap = *taps_[node];
  const auto refuse = [&](auto... why) {
    return absl::FailedPreconditionError(absl::StrCat(tap.name, ": ", why...));
  };
  if (!tap.has_header) {
    const VirtioFeatures needs_header = acked & (kHeaderFeatures | kTunnelFeatures);
    if (!needs_header.empty()) {
      return refuse("was made without IFF_VNET_HDR, so it cannot tell of ",
                    absl::StrJoin(FeatureNames(DeviceId::kNet, needs_header), " "));
    }
    if (!vhost_can_add_header_) {
      return refuse("was made without IFF_VNET_HDR, and vhost does not add a header of its own");
    }
    return VhostFeatures{VhostFeature::kNetVirtioNetHdr};
  }
  if (tap.right_for == acked) return VhostFeatures();
  // The kernel does not look at what the TAP puts in front of a packet: of a header of another
  // size it drops every packet, without a word.
  int header_bytes = 0;
  const absl::Status status = kernel_abi::Call({kernel(), tap_fds_[node], tap.name},
                                               kernel_abi::kTunGetVnetHdrSz, header_bytes)
                                  .status();
  if (!status.ok()) return status;
  if (header_bytes != HeaderBytes(acked)) {
    return refuse("its packet header has ", header_bytes, " bytes, and the features acked want ",
                  HeaderBytes(acked), ": set it (TUNSETVNETHDRSZ) before the start");
  }
  tap.right_for = acked;
  return VhostFeatures();
}

}  // namespace vhost
