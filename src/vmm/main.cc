// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// vmm: boots a Linux guest with virtio devices that the host kernel serves. It is the project's
// reference for how a VMM uses the library; options.cc has its manual.
#include <pthread.h>
#include <signal.h>
#include <sys/signalfd.h>

#include <cerrno>
#include <cstdio>
#include <span>
#include <string>
#include <variant>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernel-abi/kernel.h"
#include "kernel-abi/system_error.h"
#include "kernel-abi/unique_fd.h"
#include "src/vmm/machine.h"
#include "src/vmm/options.h"

namespace {

constexpr int kExitFailure = 1;
constexpr int kExitUsage = 2;

void Complain(const absl::Status& status) {
  std::fprintf(stderr, "vmm: %s\n", std::string(status.message()).c_str());
}

// Readable once the process is asked to end. Must come before the first thread: threads inherit
// that the signals are blocked, so that none is taken anywhere else.
absl::StatusOr<kernel_abi::UniqueFd> StopSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals, signal);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  const int fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
  if (fd < 0) {
    return kernel_abi::MakeSystemError({.error = errno, .subject = "signals", .call = "signalfd"});
  }
  return kernel_abi::UniqueFd(fd);
}

absl::Status RunGuest(const vmm::Options& options) {
  absl::StatusOr<kernel_abi::UniqueFd> stop = StopSignals();
  if (!stop.ok()) return stop.status();
  // Output into a closed pipe is lost output, not the end of the guest.
  signal(SIGPIPE, SIG_IGN);
  absl::StatusOr<std::unique_ptr<vmm::Machine>> machine =
      vmm::Machine::Create(kernel_abi::LinuxKernel(), options);
  if (!machine.ok()) return machine.status();
  return (*machine)->Run(stop->get());
}

}  // namespace

int main(int argc, char** argv) {
  const absl::StatusOr<std::variant<vmm::Options, vmm::Help>> parsed =
      vmm::ParseOptions(std::span<const char* const>(argv, static_cast<size_t>(argc)).subspan(1));
  if (!parsed.ok()) {
    Complain(parsed.status());
    return kExitUsage;
  }
  if (const auto* help = std::get_if<vmm::Help>(&*parsed); help != nullptr) {
    std::fputs(help->text.c_str(), stdout);
    return 0;
  }
  const absl::Status status = RunGuest(std::get<vmm::Options>(*parsed));
  if (status.ok()) return 0;
  Complain(status);
  return kExitFailure;
}
