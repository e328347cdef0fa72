// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "kernel-abi/node.h"

#include <fcntl.h>

#include <cerrno>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "kernel-abi/system_error.h"

namespace kernel_abi {
namespace {

struct KnownNode {
  const char* path;
  const char* load;  // what to do when the node is not there
};

constexpr KnownNode kKnownNodes[] = {
    {"/dev/vhost-net", "load the module: modprobe vhost_net"},
    {"/dev/vhost-vsock", "load the module: modprobe vhost_vsock"},
    {"/dev/net/tun", "load the module: modprobe tun"},
    {"/dev/kvm",
     "load the module: modprobe kvm_intel or kvm_amd (virtualisation must be enabled in the "
     "firmware, or nested in the hypervisor below)"},
};

const KnownNode* FindKnownNode(absl::string_view path) {
  for (const KnownNode& node : kKnownNodes) {
    if (path == node.path) return &node;
  }
  return nullptr;
}

std::string Advice(absl::string_view path, int error) {
  const KnownNode* node = FindKnownNode(path);
  switch (error) {
    case ENOENT:
    // The node is there but nothing behind it: a static node whose module cannot be loaded.
    case ENODEV:
    case ENXIO:
      return node != nullptr ? node->load : "";
    case EACCES:
      if (path == "/dev/net/tun") return "it is usually open to all: chmod 0666 it, or pass an fd";
      return "add the user to the group that owns it (kvm), or pass an fd";
    case EPERM:
      return "the device cgroup or the sandbox forbids it: allow it there, or pass an fd";
    case EBUSY:
      return "somebody else has it open for itself alone";
    case EMFILE:
      return "raise the limit of open files of this process: ulimit -n";
    case ENFILE:
      return "raise the limit of open files of this machine: sysctl fs.file-max";
    case ENOMEM:
      return "the machine is out of kernel memory";
    default:
      return "";
  }
}

}  // namespace

absl::StatusOr<UniqueFd> OpenNode(Kernel& kernel, absl::string_view path) {
  const std::string name(path);
  const int fd = kernel.Open(name.c_str(), O_RDWR);
  if (fd >= 0) return UniqueFd(fd);
  return MakeSystemError({.error = -fd, .subject = name, .call = "open"}, Advice(path, -fd));
}

absl::StatusOr<long> ReadNumber(Kernel& kernel, absl::string_view path) {
  const std::string name(path);
  const UniqueFd fd(kernel.Open(name.c_str(), O_RDONLY));
  if (!fd.valid()) {
    return MakeSystemError({.error = -fd.get(), .subject = name, .call = "open"});
  }
  char text[32];
  const ssize_t length = kernel.Read(fd.get(), text, sizeof(text));
  if (length < 0) {
    return MakeSystemError({.error = static_cast<int>(-length), .subject = name, .call = "read"});
  }
  const absl::string_view trimmed =
      absl::StripAsciiWhitespace(absl::string_view(text, static_cast<size_t>(length)));
  long value = 0;
  if (!absl::SimpleAtoi(trimmed, &value)) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": holds no number: ", trimmed));
  }
  return value;
}

}  // namespace kernel_abi
