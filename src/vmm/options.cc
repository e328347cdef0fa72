// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vmm/options.h"

#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"

namespace vmm {
namespace {

constexpr char kHelp[] =
    R"(Usage: vmm --kernel FILE [OPTION...]

Boots a Linux kernel in a virtual machine whose virtio devices are served by vhost. The guest's
serial console (ttyS0) is this program's stdin and stdout; in a terminal, Ctrl-A x stops the VMM.

  --kernel FILE          bzImage (the vmlinuz of a distribution)
  --initrd FILE          initramfs
  --append TEXT          kernel command line
  --memory SIZE          guest memory, with suffix M or G (default 256M)
  --memory-backend KIND  memfd (default), or anonymous
  --cpus N               virtual CPUs (default 1)
  --irqchip KIND         full (default): interrupt controllers in KVM; split: local APICs in KVM,
                         the I/O APIC here, no 8259s and no PIT
  --device NAME,KEY=VALUE...
                         adds a device; "--device help" lists them, "--device NAME,help" its keys
  --name NAME            name of the machine for vhostctl (default vmm)
  --control-socket PATH  where vhostctl reaches it (default: a socket in the runtime directory;
                         "none": nowhere)
  --watchdog PERIOD[:STALL]
                         milliseconds between looks at the queues, and without progress before a
                         stalled device moves (default 1000:3000); "off": nobody looks
  --no-reboot            a guest that reboots (or panics, with panic=-1) ends the VMM
  --verbose              says on stderr what happens, and counts exits at the end; without it only
                         what an operator has to know of a device (fallback, stall, failure)
  --help, --version

Exit code: 0 when the guest powered off or the VMM was stopped (SIGTERM, SIGINT, Ctrl-A x),
1 when the guest or the host failed, 2 for a wrong command line. A guest that reboots starts again.
)";

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kMinMemory = 32 * kMiB;
constexpr uint64_t kMaxMemory = 1024 * 1024 * kMiB;
constexpr uint32_t kMaxCpus = 254;  // APIC ids of one byte

absl::Status Usage(std::string message) {
  return absl::InvalidArgumentError(absl::StrCat(message, " (see --help)"));
}

absl::StatusOr<uint64_t> ParseSize(absl::string_view text) {
  uint64_t unit = kMiB;  // as QEMU has it: a plain number is MiB
  absl::string_view digits = text;
  if (absl::ConsumeSuffix(&digits, "G")) {
    unit = 1024 * kMiB;
  } else {
    absl::ConsumeSuffix(&digits, "M");
  }
  uint64_t number = 0;
  if (!absl::SimpleAtoi(digits, &number) || number < kMinMemory / unit ||
      number > kMaxMemory / unit || number * unit < kMinMemory) {
    return Usage(absl::StrCat("--memory ", text, ": a size from 32M to 1024G is needed"));
  }
  return number * unit;
}

absl::StatusOr<vhost::WatchdogOptions> ParseWatchdog(absl::string_view text) {
  constexpr uint32_t kMostMs = 3'600'000;
  vhost::WatchdogOptions options;
  if (text == "off") {
    options.period_ms = 0;
    return options;
  }
  const std::pair<absl::string_view, absl::string_view> parts =
      absl::StrSplit(text, absl::MaxSplits(':', 1));
  const bool has_stall = parts.first.size() < text.size();
  if (!absl::SimpleAtoi(parts.first, &options.period_ms) || options.period_ms < 1 ||
      options.period_ms > kMostMs ||
      (has_stall &&
       (!absl::SimpleAtoi(parts.second, &options.stall_ms) || options.stall_ms > kMostMs)) ||
      options.stall_ms < options.period_ms) {
    return Usage(absl::StrCat("--watchdog ", text,
                              ": PERIOD:STALL in milliseconds is needed, from 1 to ", kMostMs,
                              " and STALL not less than PERIOD, or \"off\""));
  }
  return options;
}

// Applies `value` of option `name`; no value if there is no such option.
std::optional<absl::Status> Apply(absl::string_view name, absl::string_view value,
                                  Options* options) {
  if (name == "--kernel") {
    options->kernel = std::string(value);
  } else if (name == "--initrd") {
    options->initrd = std::string(value);
  } else if (name == "--append") {
    options->append = std::string(value);
  } else if (name == "--name") {
    if (value.empty() || absl::StrContains(value, '/')) {
      return Usage("--name: a name without \"/\" is needed");
    }
    options->name = std::string(value);
  } else if (name == "--control-socket") {
    options->control_socket = std::string(value);
  } else if (name == "--memory") {
    absl::StatusOr<uint64_t> size = ParseSize(value);
    if (!size.ok()) return size.status();
    options->memory_bytes = *size;
  } else if (name == "--cpus") {
    if (!absl::SimpleAtoi(value, &options->cpus) || options->cpus < 1 || options->cpus > kMaxCpus) {
      return Usage(absl::StrCat("--cpus ", value, ": a number from 1 to ", kMaxCpus, " is needed"));
    }
  } else if (name == "--memory-backend") {
    if (value != "memfd" && value != "anonymous") {
      return Usage(absl::StrCat("--memory-backend ", value, ": memfd or anonymous is needed"));
    }
    options->memory_backend = value == "memfd" ? MemoryBackend::kMemFd : MemoryBackend::kAnonymous;
  } else if (name == "--irqchip") {
    if (value != "full" && value != "split") {
      return Usage(absl::StrCat("--irqchip ", value, ": full or split is needed"));
    }
    options->irqchip = value == "full" ? Irqchip::kFull : Irqchip::kSplit;
  } else if (name == "--watchdog") {
    absl::StatusOr<vhost::WatchdogOptions> watchdog = ParseWatchdog(value);
    if (!watchdog.ok()) return watchdog.status();
    options->watchdog = *watchdog;
  } else if (name == "--device") {
    absl::StatusOr<DeviceOption> device = ParseDevice(value);
    if (!device.ok()) return device.status();
    options->devices.push_back(*std::move(device));
  } else {
    return std::nullopt;
  }
  return absl::OkStatus();
}

// What "--device VALUE" prints, if it asks for help.
std::optional<Help> DeviceHelpFor(absl::string_view value) {
  if (value == "help" || value == "?") return Help{DeviceHelp()};
  if (!absl::ConsumeSuffix(&value, ",help") && !absl::ConsumeSuffix(&value, ",?")) {
    return std::nullopt;
  }
  // Whatever else was said of it.
  absl::StatusOr<const DeviceDriver*> driver = FindDriver(value.substr(0, value.find(',')));
  if (!driver.ok()) return std::nullopt;  // the error names it
  return Help{DeviceHelp(**driver)};
}

}  // namespace

absl::StatusOr<std::variant<Options, Help>> ParseOptions(std::span<const char* const> arguments) {
  Options options;
  for (size_t i = 0; i < arguments.size(); ++i) {
    absl::string_view name = arguments[i];
    if (name == "--help" || name == "-h") return Help{kHelp};
    if (name == "--version") return Help{absl::StrCat("vmm (libvhost) ", LIBVHOST_VERSION, "\n")};
    if (name == "--verbose") {
      options.verbose = true;
      continue;
    }
    if (name == "--no-reboot") {
      options.reboot = false;
      continue;
    }
    // Both "--name value" and "--name=value".
    absl::string_view value;
    const size_t equals = name.find('=');
    if (absl::StartsWith(name, "--") && equals != absl::string_view::npos) {
      value = name.substr(equals + 1);
      name = name.substr(0, equals);
    } else if (i + 1 < arguments.size()) {
      value = arguments[i + 1];
      ++i;
    } else {
      Options unused;
      const bool known = Apply(name, "", &unused).has_value();
      return Usage(known ? absl::StrCat(name, " needs a value")
                         : absl::StrCat("unknown argument \"", name, "\""));
    }
    if (name == "--device") {
      if (std::optional<Help> help = DeviceHelpFor(value); help.has_value()) return *help;
    }
    const std::optional<absl::Status> status = Apply(name, value, &options);
    if (!status.has_value()) return Usage(absl::StrCat("unknown argument \"", name, "\""));
    if (!status->ok()) return *status;
  }
  if (options.kernel.empty()) return Usage("no kernel: --kernel FILE");
  return options;
}

}  // namespace vmm
