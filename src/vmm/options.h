// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "src/vmm/device_catalog.h"
#include "src/vmm/memory.h"
#include "src/vmm/vm.h"
#include "vhost/offload.h"

namespace vmm {

// What the command line asks for.
struct Options {
  std::string kernel;
  std::string initrd;  // empty: none
  std::string append;
  uint64_t memory_bytes = 256 << 20;
  MemoryBackend memory_backend = MemoryBackend::kMemFd;
  uint32_t cpus = 1;
  Irqchip irqchip = Irqchip::kFull;
  bool reboot = true;  // without: a guest that reboots ends
  std::string name = "vmm";
  std::string control_socket;  // empty: the library's place for it; "none": no socket
  vhost::WatchdogOptions watchdog;
  bool verbose = false;
  std::vector<DeviceOption> devices;
};

// Text to print instead of running: --help, --version, --device help.
struct Help {
  std::string text;
};

// `arguments` without the program's name. INVALID_ARGUMENT is a message for the user, complete.
absl::StatusOr<std::variant<Options, Help>> ParseOptions(std::span<const char* const> arguments);

}  // namespace vmm
