// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "src/vhostctl/verb.h"
#include "vhost/version.h"

namespace vhost::ctl {
namespace {

constexpr Verb kVerbs[] = {
    {"list", "", "", "shows every device of every VM on the host that this user may see",
     "A line a device: its VM and process, who serves it and how far it is up, how many of its\n"
     "virtqueues are active, what it is connected to, and the threads that serve it. Processes "
     "that\n"
     "use vhost without a control socket (QEMU, crosvm, ...) are shown as far as /proc tells of "
     "them;\n"
     "what it does not tell is \"?\".\n",
     List},
    {"show", "[VM/]DEVICE", "", "shows all that is known of one device",
     "VM is the VM's name or its process ID; it is needed where several VMs have a device of that\n"
     "name. Nothing is stopped to find out; ring indices are read from the live rings. PID/fdN is "
     "a\n"
     "vhost fd of a process without a control socket.\n",
     Show},
    {"capture", "[VM/]DEVICE", "--write --packets --snaplen --queue",
     "writes a device's packets as pcapng, for Wireshark and tshark",
     "Of a network device the frames on its TAP, whoever serves it: as large as they are there, "
     "not cut\n"
     "into segments. Of a socket device what the kernel carries (by a vsockmon interface) and what "
     "its\n"
     "own process carries, there with the chain of descriptors of each packet; also across a "
     "handover.\n"
     "PID/fdN is a vhost fd of a process without a control socket. It runs until Ctrl-C, "
     "--packets, "
     "or\n"
     "the end of the device's process (exit code 5). Mostly it needs root. What came too fast is "
     "counted.\n",
     Capture},
    {"doctor", "", "--for --queues --cid --tap",
     "tells whether this host can offload, for this user, how far, and what mends it",
     "Nodes, modules, permissions, what the kernel's requests can do, limits, KVM, io_uring, TAPs "
     "and\n"
     "namespaces: each with what it means and a command that mends it. Nothing is changed: what "
     "has\n"
     "to be tried is tried on fds of vhostctl's own, and is gone when it ends. With --cid that "
     "guest\n"
     "CID is held for a moment. Run it as the user and in the place (container, service) that the\n"
     "VMM is to run in. Exit code 0: what --for asks for can be done; 1: something is in the "
     "way.\n",
     Doctor},
    {"events", "[[VM/]DEVICE]", "--count", "tells what happens to devices, as it happens",
     "A line an event: when, which device, what, which queue, and the reason: devices that start, "
     "are\n"
     "reset or moved, paused or resumed, rings that are broken, queues that stand still, workers "
     "that\n"
     "spin. VMs that come later are followed too. It runs until it is stopped, or the one process "
     "that\n"
     "--socket names has ended (exit code 5). With --json a line is an object.\n",
     Events},
    {"handover", "[VM/]DEVICE --to KIND", "--to --reason", "has another backend serve a device",
     "KIND is in-process or kernel. The guest goes on meanwhile: its queues stand still for less\n"
     "than a millisecond, and nothing is lost. Connections of a socket device end, since no other\n"
     "backend knows them. If the other backend cannot serve, the old one goes on. The device "
     "stays\n"
     "where it was moved to, also when the guest restarts.\n",
     Handover},
    {"metrics", "", "--textfile --listen", "writes metrics of all devices as Prometheus reads them",
     "In the OpenMetrics format to stdout, or with --textfile in the older one to a file, which "
     "is\n"
     "replaced as a whole: run it from a timer. A process that does not answer has vhost_up 0.\n"
     "docs/metrics.md lists the metrics.\n",
     Metrics},
    {"stats", "[[VM/]DEVICE]", "--interval", "shows what queues do per second",
     "Two samples of the reports, and their differences a line a queue: chains in flight now, "
     "chains\n"
     "given back, packets, kicks, interrupts, how many of those the driver did not want, drops, "
     "and the\n"
     "CPU time of the threads that serve it. What the kernel does not count for its own is "
     "\"-\".\n",
     Stats},
    {"top", "[[VM/]DEVICE]", "--interval --sort --batch --once --count",
     "shows what all queues do, live",
     "A row a queue: its depth, what it does per second, the CPU time of those who serve it, what\n"
     "it did lately, and what is the matter with it. ? tells what the keys do, q ends it. With\n"
     "--batch, --once, --count or --json (an object a line) it needs no terminal: tables are\n"
     "COLUMNS wide, or 160.\n",
     Top},
    {"pause", "[VM/]DEVICE", "--reason", "stops serving a device's queues",
     "The guest's driver waits. What it had negotiated stays, and no guest memory is touched "
     "until\n"
     "the device is resumed.\n",
     Pause},
    {"resume", "[VM/]DEVICE", "", "goes on with a device that was paused", "", Resume},
    {"plug", "[VM] DEVICE,KEY=VALUE...", "", "adds a device to a VM while its guest runs",
     "In the words of the VMM: for the reference VMM those of its --device, on PCI, such as\n"
     "virtio-net-pci,id=net1,tap=tap1. VM is needed where there are several.\n",
     Plug},
    {"unplug", "[VM/]DEVICE", "--timeout", "removes a device from a VM while its guest runs",
     "Asks the guest to let go of the device and waits until it is gone. If the guest does not in "
     "that\n"
     "time (exit code 1), the request stands, and the device goes when the guest lets go of it.\n",
     Unplug},
    {"bundle", "", "--output", "writes what a bug report wants to know into one file",
     "One JSON object: what doctor says, the reports of all devices with their last events, what "
     "the\n"
     "threads of their processes are doing (kernel stacks as root only), and the kernel's version. "
     "No\n"
     "payload is in it; names of VMs, users and interfaces, addresses and MACs are.\n",
     Bundle},
    {"completion", "SHELL", "", "writes the completions for bash, zsh or fish",
     "cmake --install puts them where these shells look.\n", Completion},
};

constexpr char kExitCodes[] =
    "Exit codes: 0 done, 1 failure, 2 wrong usage, 3 no such device or VM, 4 no permission,\n"
    "5 no process answered.\n";

// The options for which `wanted` is true, a line each.
template <typename Wanted>
std::string OptionText(const Wanted& wanted) {
  std::string text = "Options:\n";
  for (const Option& option : Options()) {
    if (!wanted(option)) continue;
    const std::string name =
        option.value == nullptr ? option.name : absl::StrCat(option.name, " ", option.value);
    absl::StrAppendFormat(&text, "  %-15s  %s\n", name,
                          absl::StrReplaceAll(option.help, {{"\n", "\n                   "}}));
  }
  return text;
}

std::string Help() {
  std::string text = "Usage: vhostctl [OPTION...] VERB [ARGUMENT...]\n\nVerbs:\n";
  for (const Verb& verb : kVerbs) {
    absl::StrAppendFormat(&text, "  %-31s  %s\n", absl::StrCat(verb.name, " ", verb.usage),
                          verb.summary);
  }
  return absl::StrCat(text, "\n", OptionText(IsCommon), "\n", kExitCodes);
}

std::string Sentence(const char* summary) {
  std::string sentence = absl::StrCat(summary, ".\n");
  sentence[0] = absl::ascii_toupper(static_cast<unsigned char>(sentence[0]));
  return sentence;
}

std::string HelpOf(const Verb& verb) {
  const bool plain = verb.usage[0] == '\0';
  return absl::StrCat("Usage: vhostctl ", verb.name, plain ? "" : " ", verb.usage,
                      " [OPTION...]\n\n", Sentence(verb.summary), verb.help, "\n",
                      OptionText([&](const Option& option) { return Takes(verb, option); }), "\n",
                      kExitCodes);
}

}  // namespace

std::span<const Verb> Verbs() { return kVerbs; }

bool Takes(const Verb& verb, const Option& option) {
  if (IsCommon(option)) return true;
  const std::vector<absl::string_view> names = absl::StrSplit(verb.options, ' ');
  return std::find(names.begin(), names.end(), option.name) != names.end();
}

Outcome Run(const Invocation& invocation) {
  if (invocation.version) {
    return {.out = absl::StrCat("vhostctl ", LibraryVersion(), "\n")};
  }
  if (invocation.verb.empty() || invocation.verb == "help") {
    if (invocation.help || invocation.verb == "help") return {.out = Help()};
    return {.code = kUsage, .err = Help()};
  }
  const auto* verb = std::find_if(std::begin(kVerbs), std::end(kVerbs),
                                  [&](const Verb& row) { return invocation.verb == row.name; });
  if (verb == std::end(kVerbs)) {
    return WrongUsage(absl::StrCat("no verb \"", invocation.verb, "\""));
  }
  if (invocation.help) return {.out = HelpOf(*verb)};
  for (const Option& option : Options()) {
    const auto& given = invocation.given;
    if (!Takes(*verb, option) &&
        std::find(given.begin(), given.end(), option.name) != given.end()) {
      return WrongUsage(absl::StrCat(verb->name, " takes no ", option.name));
    }
  }
  return verb->run(invocation);
}

ExitCode ExitCodeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kOk;
    case absl::StatusCode::kNotFound:
      return kNotFound;
    case absl::StatusCode::kPermissionDenied:
      return kNotPermitted;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
      return kUnreachable;
    default:
      return kFailure;
  }
}

Outcome Failed(const absl::Status& status) {
  return {.code = ExitCodeOf(status), .err = absl::StrCat(std::string(status.message()), "\n")};
}

Outcome WrongUsage(absl::string_view message) {
  return {.code = kUsage, .err = absl::StrCat(message, "; see vhostctl --help\n")};
}

}  // namespace vhost::ctl
