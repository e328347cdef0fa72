// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/host/tap.h"

#include <cerrno>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernel-abi/system_error.h"
#include "kernel-abi/virtio.h"
#include "vhost/host/tap_open.h"

namespace vhost {
namespace {

using kernel_abi::Call;

constexpr unsigned kSegmentation =
    kernel_abi::kTunFCsum | kernel_abi::kTunFTso4 | kernel_abi::kTunFTso6 | kernel_abi::kTunFTsoEcn;
constexpr unsigned kUso = kernel_abi::kTunFUso4 | kernel_abi::kTunFUso6;
constexpr unsigned kTunnel = kernel_abi::kTunFUdpTunnelGso | kernel_abi::kTunFUdpTunnelGsoCsum;
// The kernel refuses a set with one bit that it does not know, and does not say which: the sets to
// try, from the newest kernels' to the oldest's.
constexpr unsigned kOffloadSets[] = {kSegmentation | kUso | kTunnel, kSegmentation | kUso,
                                     kSegmentation, kernel_abi::kTunFCsum};

}  // namespace

absl::StatusOr<std::unique_ptr<Tap>> Tap::Create(kernel_abi::Kernel& kernel, TapOptions options) {
  const bool handed_in = !options.fds.empty();
  absl::StatusOr<OpenTap> open = handed_in ? TakeOverTap(kernel, std::move(options.fds))
                                           : OpenTapByName(kernel, options.name, options.queues);
  if (!open.ok()) return open.status();
  std::vector<Queue> queues;
  for (kernel_abi::UniqueFd& fd : open->queues) queues.push_back({.fd = std::move(fd)});
  auto tap = absl::WrapUnique(new Tap(kernel, open->name, std::move(queues)));
  tap->is_multi_queue_ = open->is_multi_queue;
  absl::Status status = tap->Adopt();
  // What is persistent was there before whoever opened it last.
  if (status.ok() && (handed_in || open->is_persistent)) {
    tap->found_ = Found{.header_bytes = tap->header_bytes_, .sndbuf_bytes = tap->sndbuf_bytes_};
  }
  if (status.ok()) status = tap->Configure(options);
  if (!status.ok()) return status;
  return tap;
}

kernel_abi::Subject Tap::subject() const {
  for (const Queue& queue : queues_) {
    if (queue.attached) return {*kernel_, queue.fd.get(), name_};
  }
  return {*kernel_, queues_.front().fd.get(), name_};
}

absl::Status Tap::Adopt() {
  absl::Status status = Call(subject(), kernel_abi::kTunGetVnetHdrSz, header_bytes_).status();
  if (!status.ok()) return status;
  return Call(subject(), kernel_abi::kTunGetSndBuf, sndbuf_bytes_).status();
}

absl::Status Tap::Configure(const TapOptions& options) {
  if (options.sndbuf_bytes <= 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(name_, ": sndbuf of ", options.sndbuf_bytes, " bytes is not above 0"));
  }
  if (sndbuf_bytes_ != options.sndbuf_bytes) {
    absl::Status status = Call(subject(), kernel_abi::kTunSetSndBuf, options.sndbuf_bytes).status();
    if (!status.ok()) return status;
    sndbuf_bytes_ = options.sndbuf_bytes;
  }
  ProbeOffloads();
  if (absl::Status status = SetHeaderBytes(kernel_abi::kNetHdrSize); !status.ok()) return status;
  if (found_.has_value()) return absl::OkStatus();
  if (options.owner.has_value()) {
    absl::Status status =
        Call(subject(), kernel_abi::kTunSetOwner, kernel_abi::ByValue<unsigned>{*options.owner})
            .status();
    if (!status.ok()) return status;
  }
  if (options.group.has_value()) {
    absl::Status status =
        Call(subject(), kernel_abi::kTunSetGroup, kernel_abi::ByValue<unsigned>{*options.group})
            .status();
    if (!status.ok()) return status;
  }
  // Last, so that nothing stays behind when something before it fails.
  if (options.persist) {
    return Call(subject(), kernel_abi::kTunSetPersist, kernel_abi::ByValue<int>{1}).status();
  }
  return absl::OkStatus();
}

void Tap::ProbeOffloads() {
  for (unsigned set : kOffloadSets) {
    if (Call(subject(), kernel_abi::kTunSetOffload, kernel_abi::Offloads{set}).ok()) {
      supported_offloads_ = set;
      break;
    }
  }
  SetOffloads(0).IgnoreError();  // A set that is always taken.
}

Tap::~Tap() {
  if (!found_.has_value()) return;
  extra_offloads_ = 0;
  for (int queue = 0; queue < queues(); ++queue) SetQueueAttached(queue, true).IgnoreError();
  SetOffloads(0).IgnoreError();
  SetHeaderBytes(found_->header_bytes).IgnoreError();
  Call(subject(), kernel_abi::kTunSetSndBuf, found_->sndbuf_bytes).status().IgnoreError();
}

std::vector<int> Tap::fds() const {
  std::vector<int> fds;
  for (const Queue& queue : queues_) fds.push_back(queue.fd.get());
  return fds;
}

absl::Status Tap::SetHeaderBytes(int bytes) {
  if (bytes == header_bytes_) return absl::OkStatus();
  absl::Status status = Call(subject(), kernel_abi::kTunSetVnetHdrSz, bytes).status();
  if (status.ok()) header_bytes_ = bytes;
  return status;
}

absl::Status Tap::SetOffloads(unsigned offloads) {
  if ((offloads & ~supported_offloads_) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(name_, ": has no ",
                     kernel_abi::DescribeOffloads(offloads & ~supported_offloads_), " to offer"));
  }
  absl::Status status =
      Call(subject(), kernel_abi::kTunSetOffload, kernel_abi::Offloads{offloads | extra_offloads_})
          .status();
  if (status.ok()) offloads_ = offloads;
  return status;
}

absl::Status Tap::SetExtraOffloads(unsigned offloads) {
  const unsigned before = std::exchange(extra_offloads_, offloads & supported_offloads_);
  absl::Status status = SetOffloads(offloads_);
  if (!status.ok()) extra_offloads_ = before;
  return status;
}

absl::Status Tap::SetQueueAttached(int queue, bool attached) {
  if (queue < 0 || queue >= queues()) {
    return absl::InvalidArgumentError(absl::StrCat(name_, ": has no queue ", queue));
  }
  Queue& of = queues_[static_cast<size_t>(queue)];
  if (of.attached == attached || !is_multi_queue_) return absl::OkStatus();
  const short flag = attached ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE;
  absl::Status status = Call({*kernel_, of.fd.get(), name_}, kernel_abi::kTunSetQueue,
                             kernel_abi::InterfaceRequest("", flag))
                            .status();
  if (status.ok()) of.attached = attached;
  return status;
}

absl::Status Tap::SetFilter(const kernel_abi::MacFilter& filter) {
  return Call(subject(), kernel_abi::kTunSetTxFilter, filter).status();
}

TapReport Tap::Report(Links* links) const {
  TapReport report{.name = name_,
                   .queues = queues(),
                   .active_queues = 0,
                   .vnet_header = true,
                   .header_bytes = header_bytes_,
                   .sndbuf_bytes = sndbuf_bytes_};
  for (const Queue& queue : queues_) report.active_queues += queue.attached ? 1 : 0;
  if (const unsigned all = offloads_ | extra_offloads_; all != 0) {
    report.offloads = absl::StrSplit(kernel_abi::DescribeOffloads(all), ' ');
  }
  if (links != nullptr) {
    if (const absl::StatusOr<LinkState> state = links->Get(name_); state.ok()) {
      report.link_up = state->up;
      report.mtu = state->mtu;
    }
  }
  return report;
}

}  // namespace vhost
