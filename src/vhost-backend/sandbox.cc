// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vhost-backend/sandbox.h"

#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>

#include "kernel-abi/system_error.h"

namespace vhost_backend {
namespace {

// capset(2): the C library has no wrapper, and its header is the kernel's.
struct CapabilityHeader {
  uint32_t version;
  int32_t pid;
};
struct CapabilityWord {
  uint32_t effective;
  uint32_t permitted;
  uint32_t inheritable;
};
constexpr uint32_t kVersion3 = 0x2008'0522;
constexpr uint32_t kDacOverride = 1U << 1;

absl::Status Failure(const char* call) {
  return kernel_abi::MakeSystemError({.error = errno, .subject = "sandbox", .call = call});
}

}  // namespace

absl::Status EnterSandbox(Keep keep) {
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return Failure("prctl(PR_SET_NO_NEW_PRIVS)");
  if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) return Failure("prctl(PR_SET_DUMPABLE)");
  CapabilityHeader header{.version = kVersion3, .pid = 0};
  std::array<CapabilityWord, 2> words{};
  if (syscall(SYS_capget, &header, words.data()) != 0) return Failure("capget");
  const uint32_t kept = keep == Keep::kFileAccess ? words[0].permitted & kDacOverride : 0;
  words = {CapabilityWord{.effective = kept, .permitted = kept, .inheritable = 0},
           CapabilityWord{}};
  if (syscall(SYS_capset, &header, words.data()) != 0) return Failure("capset");
  return absl::OkStatus();
}

}  // namespace vhost_backend
