// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/host/tap_open.h"

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernel-abi/node.h"
#include "kernel-abi/system_error.h"
#include "kernel-abi/tun.h"

namespace vhost {
namespace {

using kernel_abi::Call;

constexpr short kTapFlags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;

std::string NameForMessages(const std::string& name) { return name.empty() ? "tap%d" : name; }

// How a person would make the TAP that is asked for.
std::string HowToMake(const std::string& name, int queues) {
  return absl::StrCat("ip tuntap add dev ", name, " mode tap user $USER",
                      queues > 1 ? " multi_queue" : "");
}

// Attaches a new fd to interface `name` with `flags`; `name` becomes the one that the kernel chose.
absl::StatusOr<kernel_abi::UniqueFd> Attach(kernel_abi::Kernel& kernel, std::string& name,
                                            short flags) {
  absl::StatusOr<kernel_abi::UniqueFd> fd = kernel_abi::OpenNode(kernel, kernel_abi::kTunPath);
  if (!fd.ok()) return fd.status();
  ifreq request = kernel_abi::InterfaceRequest(name, flags);
  const std::string subject = NameForMessages(name);
  const absl::Status status =
      Call({kernel, fd->get(), subject}, kernel_abi::kTunSetIff, request).status();
  if (!status.ok()) return status;
  name = kernel_abi::InterfaceName(request);
  return fd;
}

bool CanAttach(kernel_abi::Kernel& kernel, std::string name, short flags) {
  return Attach(kernel, name, flags).ok();
}

// What a person can do about TUNSETIFF having failed.
std::string AttachAdvice(kernel_abi::Kernel& kernel, int error, const std::string& name, int queues,
                         short flags) {
  switch (error) {
    case EBUSY:
      return "somebody else has it open, and it has one queue";
    case EPERM:
    case EACCES:
      return absl::StrCat(
          "making it, or attaching to another user's, needs CAP_NET_ADMIN; or "
          "have it made for you: ",
          HowToMake(NameForMessages(name), queues));
    case E2BIG:
      return absl::StrCat("a TAP has at most ", kernel_abi::kTunMaxQueues, " queues");
    case EINVAL:
      break;
    default:
      return "";
  }
  // An interface of that name is there, and not as asked. What it is shows in what it takes: each
  // of these attaches for a moment, to a TAP that nobody has open.
  if (queues > 1 && CanAttach(kernel, name, static_cast<short>(flags & ~IFF_MULTI_QUEUE))) {
    return absl::StrCat("it has one queue and ", queues, " were asked for: make it with ",
                        HowToMake(name, queues));
  }
  const short tun = static_cast<short>((flags & ~IFF_TAP) | IFF_TUN);
  if (CanAttach(kernel, name, tun) ||
      CanAttach(kernel, name, static_cast<short>(tun ^ IFF_MULTI_QUEUE))) {
    return "it is a TUN (packets without an Ethernet header), and a guest needs a TAP";
  }
  return "an interface of that name is there which is no TAP, or one of another kind (single-queue "
         "or multi-queue) that somebody has open";
}

// What the interface of an attached fd is.
absl::StatusOr<OpenTap> ReadInterface(kernel_abi::Kernel& kernel, int fd,
                                      const std::string& subject) {
  ifreq request{};
  const absl::Status status = Call({kernel, fd, subject}, kernel_abi::kTunGetIff, request).status();
  if (!status.ok()) {
    return kernel_abi::AddAdvice(status, kernel_abi::GetErrno(status) == EBADFD
                                             ? "the fd is not attached to an interface (TUNSETIFF)"
                                             : "the fd is not a TAP's");
  }
  OpenTap tap{.name = kernel_abi::InterfaceName(request),
              .is_multi_queue = (request.ifr_flags & IFF_MULTI_QUEUE) != 0,
              .is_persistent = (request.ifr_flags & IFF_PERSIST) != 0};
  if ((request.ifr_flags & IFF_TAP) == 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        tap.name, ": is a TUN (packets without an Ethernet header), and a guest needs a TAP"));
  }
  // Set by the first queue to be attached, and not changed by the others.
  if ((request.ifr_flags & IFF_VNET_HDR) == 0 || (request.ifr_flags & IFF_NO_PI) == 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(tap.name,
                     ": is open without IFF_VNET_HDR or without IFF_NO_PI; attach its "
                     "first queue with both"));
  }
  return tap;
}

}  // namespace

absl::StatusOr<OpenTap> OpenTapByName(kernel_abi::Kernel& kernel, const std::string& name,
                                      int queues) {
  if (queues < 1 || queues > static_cast<int>(kernel_abi::kTunMaxQueues)) {
    return absl::InvalidArgumentError(absl::StrCat(NameForMessages(name), ": ", queues,
                                                   " queues: a TAP has 1 to ",
                                                   kernel_abi::kTunMaxQueues));
  }
  if (!name.empty() && !kernel_abi::IsInterfaceName(name)) {
    return absl::InvalidArgumentError(absl::StrCat("`", name, "` is no interface name: 1 to ",
                                                   IFNAMSIZ - 1,
                                                   " characters, without `/` and spaces"));
  }
  short flags = queues > 1 ? kTapFlags | IFF_MULTI_QUEUE : kTapFlags;
  std::string chosen = name;
  absl::StatusOr<kernel_abi::UniqueFd> first = Attach(kernel, chosen, flags);
  if (queues == 1 && kernel_abi::GetErrno(first.status()) == EINVAL) {
    // One queue of a multi-queue TAP does as well.
    absl::StatusOr<kernel_abi::UniqueFd> of_many =
        Attach(kernel, chosen, static_cast<short>(flags | IFF_MULTI_QUEUE));
    if (of_many.ok()) {
      first = std::move(of_many);
      flags |= IFF_MULTI_QUEUE;
    }
  }
  if (!first.ok()) {
    return kernel_abi::AddAdvice(
        first.status(),
        kernel_abi::GetSystemError(first.status())->call == kernel_abi::kTunSetIff.name
            ? AttachAdvice(kernel, kernel_abi::GetErrno(first.status()), name, queues, flags)
            : "");
  }
  absl::StatusOr<OpenTap> tap = ReadInterface(kernel, first->get(), chosen);
  if (!tap.ok()) return tap.status();
  tap->queues.push_back(*std::move(first));
  while (static_cast<int>(tap->queues.size()) < queues) {
    absl::StatusOr<kernel_abi::UniqueFd> next = Attach(kernel, chosen, flags);
    if (!next.ok()) {
      return kernel_abi::AddContext(next.status(), absl::StrCat("queue ", tap->queues.size()));
    }
    tap->queues.push_back(*std::move(next));
  }
  return tap;
}

absl::StatusOr<OpenTap> TakeOverTap(kernel_abi::Kernel& kernel,
                                    std::vector<kernel_abi::UniqueFd> fds) {
  absl::StatusOr<OpenTap> tap = absl::InvalidArgumentError("no fds of a TAP were handed in");
  for (size_t i = 0; i < fds.size(); ++i) {
    const std::string subject = absl::StrCat("TAP fd ", fds[i].get());
    absl::StatusOr<OpenTap> queue = ReadInterface(kernel, fds[i].get(), subject);
    if (!queue.ok()) return queue.status();
    if (i > 0 && queue->name != tap->name) {
      return absl::InvalidArgumentError(absl::StrCat(subject, " is a queue of ", queue->name,
                                                     ", the one before it of ", tap->name));
    }
    if (i == 0) tap = *std::move(queue);
  }
  if (tap.ok()) tap->queues = std::move(fds);
  return tap;
}

}  // namespace vhost
